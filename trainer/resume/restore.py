"""Restore a fit or a model from a checkpoint, completely or not at all."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from fitorch.checkpoint.finding import LoadedCheckpoint, checkpoint_at, load_checkpoint
from fitorch.engine.extra_state import extra_parts
from fitorch.engine.state import Progress
from fitorch.errors import CheckpointMismatchError, NotBitExactWarning
from fitorch.nets.state import NetState, plain_state
from fitorch.optim.schedulers import scheduler_name
from fitorch.optim.several import name_of
from fitorch.optim.state import align_state, keep_dtypes

from .elastic import MAY_DIFFER, state_for, world_changed
from .fingerprint import differences, fingerprint, parameters_by_name
from .groups import with_saved_groups
from .snapshot import state_of_rank

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel
    from fitorch.engine.run import Run


def restore(run: Run, loaded: LoadedCheckpoint) -> None:
    """Restore the state of a fit from a checkpoint, completely or not at all.

    Raises:
        CheckpointMismatchError: Net, optimizer or data differ; the message lists all differences.
        ValueError: The checkpoint has more epochs than are requested.
    """
    state = loaded.with_tensors(state_for(run, loaded), run.net)
    _check_epochs(run, loaded)
    optimizer, saved = run.state.update.optimizer, loaded.info["run_settings"]
    with with_saved_groups(optimizer, parameters_by_name(run), saved):
        # All checks come before the first change of the fit.
        _check_same_run(run, loaded, state)
        _restore_checked(run, loaded, state)
    _forget_compiled(run.model)
    run.model.run_id = str(loaded.info["run"])
    # A run that a callback stopped is complete, unless more epochs are requested now.
    stopped = loaded.info.get("stopped") is not None and run.last_epoch <= loaded.info["epochs"]
    run.model.stop_training = bool(stopped)


def _restore_checked(run: Run, loaded: LoadedCheckpoint, state: dict[str, Any]) -> None:
    """Restore the state of a fit; an error leaves the fit as it was."""
    # A part may reject its state after others have loaded theirs; then all get theirs back.
    # The copy is deep, because loading a state copies into the same tensors.
    before = copy.deepcopy(run.state.state_dict())
    try:
        _load_state(run, _without_other_sums(run, loaded, state))
    except Exception as error:
        lost = run.state.roll_back(before)
        keep_dtypes(run.state.update.optimizer, before["optimizer"])
        message = f"cannot restore this fit from {loaded.checkpoint.path}: {error}"
        message += f"; {', '.join(lost)} did not accept its earlier state either" if lost else ""
        raise CheckpointMismatchError(message) from error


def _without_other_sums(
    run: Run, loaded: LoadedCheckpoint, state: dict[str, Any]
) -> dict[str, Any]:
    """Return the state without the sums if the metrics differ: between epochs they are empty."""
    same = loaded.info["run_settings"].get("metrics") == fingerprint(run)["run_settings"]["metrics"]
    return {name: part for name, part in state.items() if same or name != "sums"}


def _load_state(run: Run, state: Mapping[str, Any]) -> None:
    history, sets = run.state.history, run.state.history.sets
    monitor, mode = history.monitor, history.mode
    run.state.load_state_dict(state, strict=False)  # callbacks and metrics may differ
    # The state replaced these, but this fit's arguments decide.
    history.begin(monitor, mode, run.progress.seed, sets=sets)
    keep_dtypes(run.state.update.optimizer, state["optimizer"])


def restore_model(model: BaseModel, path: str | Path) -> Path:
    """Restore a model that is not in a fit; see `KerasModel.restore`."""
    loaded = load_checkpoint(checkpoint_at(path))
    state = loaded.with_tensors(state_of_rank(loaded.parts), model.net)
    different = _weight_differences(state["net"], plain_state(model.net))
    now = {
        "optimizer": None if model.optimizer is None else name_of(model.optimizer),
        "lr_scheduler": scheduler_name(model.lr_scheduler) or None,
    }
    saved = {name: loaded.info["run_settings"].get(name) for name in now}
    _raise_if_different(loaded, different + differences(saved, now))
    parts = {"net": NetState(model.net), "loss": model.objective, "optimizer": model.optimizer}
    progress = Progress()
    parts |= {"scheduler": model.lr_scheduler, "history": model.history, "progress": progress}
    parts |= extra_parts(model)
    load_all({name: part for name, part in parts.items() if part is not None}, state, loaded)
    if model.optimizer is not None:
        keep_dtypes(model.optimizer, state["optimizer"])
        align_state(model.optimizer)
    _forget_compiled(model)
    model.progress = Progress(progress.seed, progress.epochs, updates=progress.updates)
    return loaded.checkpoint.path


def load_all(parts: Mapping[str, Any], state: Mapping[str, Any], loaded: LoadedCheckpoint) -> None:
    """Load the states of all parts, or of none.

    Raises:
        CheckpointMismatchError: A part does not accept its state.
    """
    before = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        message = f"cannot restore this model from {loaded.checkpoint.path}: {error}"
        raise CheckpointMismatchError(message) from error


def _forget_compiled(model: BaseModel) -> None:
    """Discard the compiled region, which refers to the tensors of the optimizer's old state."""
    if model.compilation is not None:
        model.compilation.region = None


def _check_epochs(run: Run, loaded: LoadedCheckpoint) -> None:
    done = loaded.info["epoch"]
    if done > run.last_epoch:
        message = (
            f"{loaded.checkpoint.path} has completed {done} epochs, but epochs={run.last_epoch}; "
            "epochs is the number of the last epoch"
        )
        raise ValueError(message)


def _check_same_run(run: Run, loaded: LoadedCheckpoint, state: Mapping[str, Any]) -> None:
    """Raise an error if the checkpoint is of another run; warn if the bits may differ."""
    now = fingerprint(run)
    ignored = MAY_DIFFER if run.arguments.elastic else ()
    # Within an epoch, the checkpoint has sums of its metrics.
    if not loaded.info["batch"]:
        ignored = (*ignored, "metrics")  # their sums are empty
    settings = (loaded.info["run_settings"], now["run_settings"])
    compared = ({n: v for n, v in each.items() if n not in ignored} for each in settings)
    different = differences(*compared)
    different += _weight_differences(state["net"], plain_state(run.net))
    if run.arguments.seed != loaded.info["seed"]:
        different.append(f"seed: saved {loaded.info['seed']}, given {run.arguments.seed}")
    parts = {*run.state.parts(), "random"}
    if not run.coordinator.processes.is_main:  # only that has the callbacks that write
        state = {name: part for name, part in state.items() if not name.startswith("callbacks.")}
        parts = {name for name in parts if not name.startswith("callbacks.")}
    missing = sorted(parts - {*state})
    different += [f"{name} is missing" for name in missing if not _is_optional(name)]
    _raise_if_different(loaded, different)
    reasons = [f"{name} has no saved state and starts fresh" for name in missing]
    reasons += [f"{name} is not in this fit" for name in sorted({*state} - parts)]
    reasons += differences(loaded.info["machine"], now["machine"])
    if run.arguments.elastic and world_changed(run, loaded):
        reasons.append("the batches differ (elastic=True)")
    if reasons:
        warnings.warn(
            f"resuming {loaded.checkpoint.path}, but the bits may differ from those of a run "
            f"without interruption: {'; '.join(reasons)}",
            NotBitExactWarning,
            stacklevel=2,
        )


def _is_optional(part: str) -> bool:
    """Return whether a fit can resume without the state of a part."""
    # Earlier checkpoints do not have "trained".
    return part.startswith("callbacks.") or part in ("scaler", "trained")


def _raise_if_different(loaded: LoadedCheckpoint, different: list[str]) -> None:
    if different:
        listed = "\n".join(f"  {text}" for text in different)
        message = (
            f"{loaded.checkpoint.path} belongs to a different run:\n{listed}\nmatch the settings, "
            "or start a new run with its weights: model.load_ckpt(...), fit(resume=False)"
        )
        raise CheckpointMismatchError(message)


def _weight_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how names, types and shapes of two state dicts differ."""
    texts = []
    for what, names in (
        ("missing in the checkpoint", [name for name in now if name not in saved]),
        ("not in this net", [name for name in saved if name not in now]),
    ):
        if names:
            texts.append(f"{len(names)} weights {what}: {', '.join(names[:10])}")
    different = [
        f"{name} saved {_dtype_and_shape(saved[name])}, given {_dtype_and_shape(now[name])}"
        for name in now
        if name in saved
        and not is_lazy(now[name])
        and _dtype_and_shape(saved[name]) != _dtype_and_shape(now[name])
    ]
    if different:
        texts.append(f"{len(different)} weights: {'; '.join(different[:10])}")
    return texts


def _dtype_and_shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
