"""A model that is trained or measured by several processes of its own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from fitorch.distributed.dtensor import gather_full
from fitorch.distributed.launcher import launch
from fitorch.engine.base_model import BaseModel
from fitorch.engine.state import Progress
from fitorch.environment import in_notebook
from fitorch.nets.state import NetState
from fitorch.optim.state import align_state
from fitorch.tree import map_tensors

if TYPE_CHECKING:
    import pandas as pd


def fit_ddp(model: BaseModel, num_processes: int, options: dict[str, Any]) -> pd.DataFrame:
    """Train in several processes; see `KerasModel.fit_ddp`."""
    arguments = {"model": model, "tidily": in_notebook(), **options}
    made = launch(_fit_in_process, arguments, num_processes)
    for name, part in _parts(model).items():
        part.load_state_dict(made["parts"][name])
    if model.optimizer is not None:
        align_state(model.optimizer)
    model.progress = Progress(**made["progress"])
    model.history.fits.extend(made["fits"])
    for name, value in made["told"].items():
        setattr(model, name, value)
    return model.history.frame


def evaluate_ddp(model: BaseModel, num_processes: int, options: dict[str, Any]) -> dict[str, float]:
    """Measure in several processes; see `KerasModel.evaluate_ddp`."""
    found: dict[str, float] = launch(
        _evaluate_in_process, {"model": model, **options}, num_processes
    )
    return found


def _fit_in_process(model: BaseModel, tidily: bool, **options: Any) -> dict[str, Any] | None:
    """Train, as one of the processes; return what the model has become.

    Args:
        model: The model.
        tidily: Whether an interrupt just ends the fit, as in a notebook.
        **options: As for `fit`.
    """
    with warnings.catch_warnings():  # a copied schedule has lost track of its optimizer's steps
        warnings.filterwarnings("ignore", message="Seems like `optimizer.step")
        try:
            model.fit(**options)
        except KeyboardInterrupt:
            if not tidily:
                raise
    main = model.is_main_process
    states = gather_full(
        {name: part.state_dict() for name, part in _parts(model).items()}, keep=main
    )
    if not main:
        return None
    told = ("ckpt_path", "metric_tasks", "run_id", "stop_training")
    return {
        "parts": map_tensors(torch.Tensor.cpu, states),
        "progress": model.progress.state_dict(),
        "fits": list(model.history.fits),
        "told": {name: getattr(model, name) for name in told},
    }


def _evaluate_in_process(model: BaseModel, **options: Any) -> dict[str, float]:
    return model.evaluate(**options)


def _parts(model: BaseModel) -> dict[str, Any]:
    """Return all of a model that training changes, by name."""
    parts = {
        "net": NetState(model.net),
        "loss": model.objective,
        "optimizer": model.optimizer,
        "lr_scheduler": model.lr_scheduler,
        "history": model.history,
    }
    return {name: part for name, part in parts.items() if part is not None}
