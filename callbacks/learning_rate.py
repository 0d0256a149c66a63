"""Learning rate callbacks: by a function of the epoch, or when a value no longer improves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fitorch.optim.several import name_of

from .base import Callback, Logs
from .monitor import MonitorCallback

if TYPE_CHECKING:
    from .trained_model import TrainedModel


class LearningRateScheduler(Callback):
    """Set the learning rate of each epoch by a function, as Keras' callback does.

    Args:
        schedule: A function of `(epoch, lr)`, or of `(epoch)` alone, that returns the learning rate
            of the epoch, counted from 0. `lr` is the current rate of the first parameter group;
            other groups keep their ratio to it.
        verbose: Accepted for compatibility with Keras; the rate is in the column `lr` (Keras'
            `learning_rate`) of the history.

    Raises:
        TypeError: `schedule` is not a function of one or two arguments, or returned no number.
        ValueError: The rate is negative or not finite, or the model has an `lr_scheduler`.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule = schedule
        self.verbose = verbose
        self._takes_rate = _takes_rate(schedule)
        self._epoch: int | None = None  # the last epoch whose rate was set
        self._resumed: int | None = None  # the same, from a restored state

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that the model does not have an `lr_scheduler`."""
        check_no_scheduler(self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rate, unless this is a resumed epoch whose rate is set already."""
        # A schedule that multiplies the current rate would do so twice in a resumed epoch.
        resumed, self._resumed = self._resumed, None
        self._epoch = epoch
        if epoch != resumed:
            self._set_rates(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the last epoch whose rate was set."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state for the next fit."""
        self._epoch = self._resumed = state["epoch"]

    def _set_rates(self, epoch: int) -> None:
        groups = groups_of(self.model)
        # The rate is read once, because the loop below changes it.
        current = float(groups[0]["lr"])
        rate: Any = self.schedule(epoch, current) if self._takes_rate else self.schedule(epoch)
        try:
            rate = float(rate)
        except (TypeError, ValueError) as error:
            message = (
                f"the schedule returned {rate!r} for epoch {epoch}, a {type(rate).__name__}; "
                "expected a number"
            )
            raise TypeError(message) from error
        if not (math.isfinite(rate) and rate >= 0):
            message = (
                f"the schedule returned {rate!r} for epoch {epoch}; expected a finite rate >= 0"
            )
            raise ValueError(message)
        for group in groups:
            # With a rate of 0 the ratios are lost; all groups then get the same rate.
            ratio = float(group["lr"]) / current if current else 1.0
            set_rate(group, rate * ratio)


class ReduceLROnPlateau(MonitorCallback):
    """Reduce the learning rate if a monitored value has not improved for `patience` epochs.

    It is Keras' callback with three differences. NaN is never an improvement, epochs without a new
    value do not count, and a column that the fit does not measure raises an error before training.

    Args:
        monitor: The column to monitor.
        factor: The factor by which the rates are multiplied, in (0, 1).
        patience: The number of epochs without improvement after which the rates are reduced.
        verbose: Accepted for compatibility with Keras; the rate is in the column `lr` (Keras'
            `learning_rate`) of the history.
        mode: "min", "max" or "auto".
        min_delta: The smallest change that counts as an improvement; it must be exceeded.
        cooldown: The number of epochs after a reduction that do not count for the patience.
        min_lr: The lower bound of the rates.

    Raises:
        ValueError: An argument is out of range, or the model has an `lr_scheduler`.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            message = f"factor is {factor!r}; expected a number between 0 and 1, such as 0.1"
            raise ValueError(message)
        for name, value in (("patience", patience), ("cooldown", cooldown), ("min_lr", min_lr)):
            if not value >= 0:
                message = f"{name} is {value!r}; expected a number >= 0"
                raise ValueError(message)
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.forget()

    def forget(self) -> None:
        """Discard the state of an earlier fit."""
        super().forget()
        self.wait = 0
        self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the state of an earlier fit; check that the model has no `lr_scheduler`."""
        super().on_train_begin(logs)
        check_no_scheduler(self)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Update the best value, and reduce the rates when the patience is exhausted."""
        value = self.value_in(logs)
        if value is None:
            return
        # As in Keras' callback, the cooldown counts before the comparison.
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.watched.improves(value, epoch):
            self.wait = 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the epochs without improvement, and the rest of the cooldown."""
        counters = {"wait": self.wait, "cooldown_counter": self.cooldown_counter}
        return {**super().state_dict(), **counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.wait, self.cooldown_counter = state["wait"], state["cooldown_counter"]

    def _reduce(self) -> None:
        lowered = False
        for group in groups_of(self.model):
            rate = float(group["lr"])
            if rate > self.min_lr:
                set_rate(group, max(rate * self.factor, self.min_lr))
                lowered = True
        # At the lower bound nothing changes, and no cooldown begins.
        if lowered:
            self.cooldown_counter = self.cooldown
            self.wait = 0


def groups_of(model: TrainedModel) -> list[dict[str, Any]]:
    """Return the parameter groups of a model's optimizer, whose rates a callback sets.

    Raises:
        ValueError: The optimizer finds its own rates.
    """
    assert model.optimizer is not None, "a fit has an optimizer"
    groups = model.optimizer.param_groups
    if any(group.get("lr") is None for group in groups):
        message = (
            f"{name_of(model.optimizer)} finds its learning rate itself (lr=None), so that no "
            "callback can set it; remove the callback, or pass the optimizer a rate"
        )
        raise ValueError(message)
    return groups


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a parameter group."""
    # Compiled and capturable optimizers have the rate in a tensor, which they read in each step.
    if hasattr(group["lr"], "fill_"):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def check_no_scheduler(callback: Callback) -> None:
    """Check that the model of a callback that sets learning rates does not have an `lr_scheduler`.

    Raises:
        ValueError: The model has one.
    """
    scheduler = callback.model.lr_scheduler
    if scheduler is not None:
        message = (
            f"{type(callback).__name__} and lr_scheduler={type(scheduler).__name__} both set the "
            "learning rate; remove one of them"
        )
        raise ValueError(message)


def _takes_rate(schedule: Any) -> bool:
    """Return whether a schedule takes `(epoch, lr)` instead of `(epoch)`.

    Raises:
        TypeError: It takes neither.
    """
    if not callable(schedule):
        message = f"schedule is {schedule!r}; expected a function (epoch, lr) -> lr"
        raise TypeError(message)
    try:
        signature = inspect.signature(schedule)
    except ValueError:  # a built-in without a signature
        return False
    # Two arguments are tried first: a schedule with a default for `lr` takes both.
    for arguments in ((0, 0.1), (0,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    message = f"schedule takes {signature}; expected (epoch, lr) or (epoch)"
    raise TypeError(message)
