"""The learning-rate range test, which finds a rate to train with."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset

from fitorch.callbacks.base import Callback, Logs
from fitorch.callbacks.learning_rate import groups_of, set_rate
from fitorch.callbacks.terminate_on_nan import TerminateOnNaN
from fitorch.data.rng_state import undisturbed_order
from fitorch.distributed.fsdp import is_sharded
from fitorch.distributed.processes import Processes
from fitorch.engine.base_model import BaseModel
from fitorch.engine.state import Progress
from fitorch.history.history import History
from fitorch.optim.copies import complete_copy
from fitorch.optim.rates import learning_rates
from fitorch.optim.several import name_of
from fitorch.plotting.axes import dress_axes, new_figure
from fitorch.randomness import undisturbed_randomness

if TYPE_CHECKING:
    import pandas as pd


_SMOOTHING = 0.9  # the decay of the exponential mean of the losses

_DIVERGED = 4.0  # the test stops if the loss exceeds the least one this many times

_LEAST = 10  # batches before that is checked

# What training may change.
_COPIED = (
    "net",
    "objective",
    "val_objective",
    "_optimizer",
    "loss_fn",
    "kwargs",
)


class _Ramp(Callback):
    """Increases the rates from batch to batch, one batch per epoch, and records the losses.

    Args:
        rates: The rate of each batch for the first parameter group; the rates of the others keep
            their ratio to it.
    """

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._mean = 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Record the ratios between the rates of the parameter groups."""
        # The ratios hold for the whole test, although rates are set anew for each batch.
        groups = groups_of(self.model)
        first = float(groups[0]["lr"])
        self._ratios = [float(group["lr"]) / first if first else 1.0 for group in groups]

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rates."""
        for group, ratio in zip(groups_of(self.model), self._ratios, strict=True):
            set_rate(group, self.rates[epoch] * ratio)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Record the loss of the batch, and stop if it explodes."""
        loss = float((logs or {})["train_loss"])
        self.losses.append(loss)
        # The line below corrects the mean for its start at 0, as Adam does with its moments.
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        self.smoothed.append(self._mean / (1 - _SMOOTHING ** len(self.losses)))
        # The first batches are too noisy for a comparison with the least loss.
        if epoch >= _LEAST and self.smoothed[-1] > _DIVERGED * min(self.smoothed):
            self.model.stop_training = True


def find_lr(
    model: BaseModel,
    train_data: Any,
    start: float,
    end: float,
    steps: int,
    batch_size: int | None,
    seed: int | None,
    plot: str | Path | None,
) -> pd.DataFrame:
    """Train a copy of a model with a growing rate; see `KerasModel.find_lr`."""
    import pandas as pd

    _check_range(model, train_data, start, end, steps)
    ramp = _Ramp(np.geomspace(start, end, steps).tolist())
    # A fit after the test draws the same numbers as without it.
    with undisturbed_randomness(), undisturbed_order(train_data):
        _twin(model).fit(
            train_data,
            epochs=steps,
            steps_per_epoch=1,
            # A loss that is NaN ends the test, which is expected at high rates.
            callbacks=[ramp, TerminateOnNaN()],
            batch_size=batch_size,
            seed=seed,
            verbose=0,
        )
    # An epoch that ended in NaN has no loss.
    rates = ramp.rates[: len(ramp.losses)]
    frame = pd.DataFrame({"lr": rates, "loss": ramp.losses, "smoothed": ramp.smoothed})
    frame.attrs["suggestion"] = _suggestion(frame)
    if plot is not None and Processes().is_main:
        _draw_losses(frame, Path(plot))
    return frame


def _check_range(model: BaseModel, data: object, start: float, end: float, steps: int) -> None:
    if not 0 < start < end < math.inf:
        message = f"start={start!r} and end={end!r}; expected rates with 0 < start < end"
        raise ValueError(message)
    if steps < _LEAST:
        message = f"steps is {steps}; expected at least {_LEAST} batches"
        raise ValueError(message)
    if model.optimizer is None:
        message = "the net has no parameters to train"
        raise ValueError(message)
    if not learning_rates(model.optimizer):
        message = f"{name_of(model.optimizer)} finds its learning rate itself (lr=None)"
        raise ValueError(message)
    restarts = isinstance(data, IterableDataset) or hasattr(data, "__len__")
    if isinstance(data, Iterator) and not restarts:
        message = (
            f"train_data is a {type(data).__name__}, whose batches the test would use up; pass a "
            "DataLoader, (x, y), or an object with __iter__"
        )
        raise TypeError(message)
    if is_sharded(model.net):
        message = (
            "the net is sharded over the processes and cannot be copied; call find_lr before the "
            "first fit"
        )
        raise RuntimeError(message)


def _twin(model: BaseModel) -> BaseModel:
    """Return a copy of a model whose training does not change the model."""
    twin = copy.copy(model)
    parts = {name: getattr(model, name) for name in _COPIED if hasattr(model, name)}
    memo: dict[int, Any] = {}
    vars(twin).update(copy.deepcopy(parts, memo))  # in one call, so that they share parameters
    complete_copy(model.optimizer, twin.optimizer, memo)
    # The ramp sets the rates; a schedule or a compiled step of the model would interfere.
    twin.lr_scheduler, twin.compilation, twin.metrics_dict = None, None, {}
    twin.history, twin.progress = History(), Progress()
    return twin


def _suggestion(frame: pd.DataFrame) -> float:
    """Return a tenth of the rate at which the smoothed loss is least, NaN if it never falls."""
    least = int(frame["smoothed"].argmin()) if len(frame) else 0
    if least:
        return float(frame["lr"].iloc[least]) / 10
    warnings.warn(
        "find_lr: the loss did not fall at any of the rates, so there is no suggestion; pass other "
        "values for start and end",
        stacklevel=4,
    )
    return math.nan


def _draw_losses(frame: pd.DataFrame, path: Path) -> None:
    """Plot the loss over the rate, with the suggestion."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    axes.plot(frame["lr"], frame["loss"], color="#8a8f98", linewidth=0.8, label="loss of a batch")
    axes.plot(frame["lr"], frame["smoothed"], color="#0b6bcb", label="smoothed")
    suggestion = frame.attrs["suggestion"]
    if not math.isnan(suggestion):
        axes.axvline(suggestion, color="#d9480f", linestyle="--", label=f"lr = {suggestion:.2g}")
    low, first = frame[["loss", "smoothed"]].to_numpy().min(), frame["smoothed"].iloc[0]
    axes.set_ylim(low - 0.1 * abs(first - low), first + 0.5 * abs(first - low))
    axes.set_xscale("log")
    dress_axes(axes, "loss by learning rate", "learning rate")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
