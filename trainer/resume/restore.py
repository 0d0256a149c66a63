"""Put a checkpoint into a fit or a model: all of it, or nothing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from fitorch.checkpoint.finding import Found, checkpoint_at, read
from fitorch.engine.state import Progress
from fitorch.errors import CheckpointMismatchError, NotBitExactWarning
from fitorch.nets.state import NetState, plain_state
from fitorch.optim.state import align_state, keep_dtypes

from .elastic import MAY_DIFFER, changed, state_for
from .fingerprint import differences, fingerprint
from .snapshot import rearranged

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel
    from fitorch.engine.run import Run


def restore(run: Run, found: Found) -> None:
    """Put a checkpoint's state into a fit: all of it, or nothing.

    Raises:
        CheckpointMismatchError: It is of another net, optimizer or data; all that differs is told.
        ValueError: It stands behind the last epoch that is asked for.
    """
    state = found.filled(state_for(run, found), run.net)
    _check_epochs(run, found)
    _check(run, found, state)
    before = copy.deepcopy(run.state.state_dict())
    try:
        _put(run, _without_other_sums(run, found, state))
    except Exception as error:
        lost = run.state.put_back(before)
        keep_dtypes(run.state.update.optimizer, before["optimizer"])
        message = f"{found.checkpoint.path} can't be put into this fit: {error}"
        message += f"; {', '.join(lost)} did not take its own state back either" if lost else ""
        raise CheckpointMismatchError(message) from error
    _forget_compiled(run.model)
    run.model.run_id = str(found.info["run"])
    stopped = found.info.get("stopped") is not None and run.last_epoch <= found.info["epochs"]
    run.model.stop_training = bool(stopped)


def _without_other_sums(run: Run, found: Found, state: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was counted, which between epochs is nothing, where it is by other metrics."""
    same = found.info["run_settings"].get("metrics") == fingerprint(run)["run_settings"]["metrics"]
    return {name: part for name, part in state.items() if same or name != "sums"}


def _put(run: Run, state: Mapping[str, Any]) -> None:
    history, sets = run.state.history, run.state.history.sets
    monitor, mode = history.monitor, history.mode
    run.state.load_state_dict(state, strict=False)  # callbacks may have come or gone, or metrics
    history.begin(monitor, mode, run.progress.seed, sets=sets)
    keep_dtypes(run.state.update.optimizer, state["optimizer"])


def restore_model(model: BaseModel, path: str | Path) -> Path:
    """Put a checkpoint into a model that is not at work; see `KerasModel.restore`."""
    found = read(checkpoint_at(path))
    state = found.filled(rearranged(found.parts), model.net)
    wrong = _table_differences(state["net"], plain_state(model.net))
    kinds = {"optimizer": model.optimizer, "lr_scheduler": model.lr_scheduler}
    given = {name: None if part is None else type(part).__name__ for name, part in kinds.items()}
    saved = {name: found.info["run_settings"].get(name) for name in given}
    _refuse(found, wrong + differences(saved, given))
    parts = {"net": NetState(model.net), "loss": model.objective, "optimizer": model.optimizer}
    progress = Progress()
    parts |= {"scheduler": model.lr_scheduler, "history": model.history, "progress": progress}
    load_all({name: part for name, part in parts.items() if part is not None}, state, found)
    if model.optimizer is not None:
        keep_dtypes(model.optimizer, state["optimizer"])
        align_state(model.optimizer)
    _forget_compiled(model)
    model.progress = Progress(progress.seed, progress.epochs, updates=progress.updates)
    return found.checkpoint.path


def load_all(parts: Mapping[str, Any], state: Mapping[str, Any], found: Found) -> None:
    """Put states into all parts, or into none.

    Raises:
        CheckpointMismatchError: One does not take its state.
    """
    before = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        message = f"{found.checkpoint.path} can't be put in: {error}"
        raise CheckpointMismatchError(message) from error


def _forget_compiled(model: BaseModel) -> None:
    """Compile anew: what was compiled holds the tensors of the optimizer's old state."""
    if model.compilation is not None:
        model.compilation.region = None


def _check_epochs(run: Run, found: Found) -> None:
    done = found.info["epoch"]
    if done > run.last_epoch:
        message = (
            f"{found.checkpoint.path} has {done} epochs behind it, but epochs={run.last_epoch}; "
            "epochs is the number of the last one"
        )
        raise ValueError(message)


def _check(run: Run, found: Found, state: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another run; warn of what may change the bits."""
    given = fingerprint(run)
    free = MAY_DIFFER if run.arguments.elastic else ()
    if not found.info["batch"]:
        free = (*free, "metrics")  # nothing is counted yet
    settings = (found.info["run_settings"], given["run_settings"])
    wrong = differences(*({n: v for n, v in each.items() if n not in free} for each in settings))
    wrong += _table_differences(state["net"], plain_state(run.net))
    if run.arguments.seed != found.info["seed"]:
        wrong.append(f"seed: saved {found.info['seed']}, given {run.arguments.seed}")
    parts = {*run.state.parts(), "random"}
    if not run.coordinator.processes.main:  # it has not the callbacks that write
        state = {name: part for name, part in state.items() if not name.startswith("callbacks.")}
        parts = {name for name in parts if not name.startswith("callbacks.")}
    lacking = sorted(parts - {*state})
    wrong += [f"{name} is missing" for name in lacking if not _may_differ(name)]
    _refuse(found, wrong)
    odd = [f"{name} has no state there, and begins afresh" for name in sorted(parts - {*state})]
    odd += [f"{name} is not in this fit" for name in sorted({*state} - parts)]
    odd += differences(found.info["machine"], given["machine"])
    if run.arguments.elastic and changed(run, found):
        odd.append("there are other batches (elastic=True)")
    if odd:
        warnings.warn(
            f"going on from {found.checkpoint.path}, but the bits may differ from those of a run "
            f"without interruption: {'; '.join(odd)}",
            NotBitExactWarning,
            stacklevel=2,
        )


def _may_differ(part: str) -> bool:
    """Say whether a fit can go on without the state of a part: callbacks and precision change."""
    return part.startswith("callbacks.") or part == "scaler"


def _refuse(found: Found, wrong: list[str]) -> None:
    if wrong:
        listed = "\n".join(f"  {each}" for each in wrong)
        message = (
            f"{found.checkpoint.path} is of another run than this one:\n{listed}\nmake them the "
            "same; or begin a new run with its weights: model.load_ckpt(...), fit(resume=False)"
        )
        raise CheckpointMismatchError(message)


def _table_differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return in what two state dicts differ, but for their numbers."""
    found = []
    for kind, names in (
        ("missing in the checkpoint", [name for name in given if name not in saved]),
        ("not in this net", [name for name in saved if name not in given]),
    ):
        if names:
            found.append(f"{len(names)} weights {kind}: {', '.join(names[:10])}")
    apart = [
        f"{name} saved {_form(saved[name])}, given {_form(given[name])}"
        for name in given
        if name in saved and not is_lazy(given[name]) and _form(saved[name]) != _form(given[name])
    ]
    return found + ([f"{len(apart)} weights: {'; '.join(apart[:10])}"] if apart else [])


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
