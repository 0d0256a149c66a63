"""Train or evaluate a model in several new processes: `fit_ddp` and `evaluate_ddp`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from fitorch.distributed.dtensor import gather_full
from fitorch.distributed.launcher import launch
from fitorch.engine.base_model import BaseModel
from fitorch.engine.extra_state import extra_parts
from fitorch.engine.state import Progress
from fitorch.environment import in_notebook
from fitorch.nets.state import NetState
from fitorch.optim.state import align_state
from fitorch.tree import map_tensors

if TYPE_CHECKING:
    import pandas as pd


def fit_ddp(model: BaseModel, num_processes: int, options: dict[str, Any]) -> pd.DataFrame:
    """Train in several processes; see `KerasModel.fit_ddp`."""
    arguments = {"model": model, "keep_interrupted": in_notebook(), **options}
    result = launch(_fit_in_process, arguments, num_processes)
    # The states are loaded in place: users hold references to net and optimizer.
    for name, part in _parts(model).items():
        part.load_state_dict(result["parts"][name])
    if model.optimizer is not None:
        # The states come as contiguous tensors.
        align_state(model.optimizer)
    model.progress = Progress(**result["progress"])
    # The records are appended, because the history's state does not contain them.
    model.history.fits.extend(result["fits"])
    for name, value in result["attributes"].items():
        setattr(model, name, value)
    return model.history.frame


def evaluate_ddp(model: BaseModel, num_processes: int, options: dict[str, Any]) -> dict[str, float]:
    """Evaluate in several processes; see `KerasModel.evaluate_ddp`."""
    values: dict[str, float] = launch(
        _evaluate_in_process, {"model": model, **options}, num_processes
    )
    return values


def _fit_in_process(
    model: BaseModel, keep_interrupted: bool, **options: Any
) -> dict[str, Any] | None:
    """Train in one of the processes; return the states of the trained model.

    Args:
        model: The model.
        keep_interrupted: Whether Ctrl-C ends the fit without an error, as in a notebook.
        **options: The arguments of `fit`.

    Returns:
        The states in rank 0, None in the others.
    """
    with warnings.catch_warnings():  # a copied schedule lacks the hooks that count optimizer steps
        warnings.filterwarnings("ignore", message="Seems like `optimizer.step")
        try:
            model.fit(**options)
        except KeyboardInterrupt:
            if not keep_interrupted:
                raise
    main = model.is_main_process
    # All ranks take part, also those that return nothing: gathering sharded tensors needs them.
    states = gather_full(
        {name: part.state_dict() for name, part in _parts(model).items()}, keep=main
    )
    if not main:
        return None
    attributes = ("ckpt_path", "columns", "metric_tasks", "run_id", "stop_training")
    return {
        # This waits for the device. Tensors of a GPU could not be unpickled without one.
        "parts": map_tensors(torch.Tensor.cpu, states),
        "progress": model.progress.state_dict(),
        "fits": list(model.history.fits),
        "attributes": {name: getattr(model, name) for name in attributes},
    }


def _evaluate_in_process(model: BaseModel, **options: Any) -> dict[str, float]:
    return model.evaluate(**options)


def _parts(model: BaseModel) -> dict[str, Any]:
    """Return the parts of a model that training changes, by name."""
    parts = {
        "net": NetState(model.net),
        "loss": model.objective,
        "optimizer": model.optimizer,
        "lr_scheduler": model.lr_scheduler,
        "history": model.history,
        **extra_parts(model),
    }
    return {name: part for name, part in parts.items() if part is not None}
