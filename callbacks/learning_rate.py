"""Learning rates that follow the epoch, or a figure that no longer improves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .base import Callback, Logs
from .monitor import MonitorCallback

if TYPE_CHECKING:
    from .trained_model import TrainedModel


class LearningRateScheduler(Callback):
    """Set the learning rate of each epoch by a function, as Keras' callback.

    Args:
        schedule: Maps `(epoch, lr)`, or `(epoch)` alone, to the rate of the epoch, counted from 0.
            `lr` is that of the first parameter group; other groups keep their ratio to it.
        verbose: Kept for Keras; the rate is the column `lr` of the history, Keras' `learning_rate`.

    Raises:
        TypeError: `schedule` is no function of one or two arguments, or gave no number.
        ValueError: The rate is negative or not finite, or the model has a schedule of torch's.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule = schedule
        self.verbose = verbose
        self._takes_rate = _takes_rate(schedule)
        self._epoch: int | None = None  # whose rate was set last
        self._resumed: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Refuse a second schedule beside this one."""
        refuse_second(self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rate, unless an epoch is gone on with that has it already."""
        resumed, self._resumed = self._resumed, None
        self._epoch = epoch
        if epoch != resumed:
            self._set_rates(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return whose rate was set last."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back, for the fit that begins next."""
        self._epoch = self._resumed = state["epoch"]

    def _set_rates(self, epoch: int) -> None:
        groups = groups_of(self.model)
        current = float(groups[0]["lr"])
        rate: Any = self.schedule(epoch, current) if self._takes_rate else self.schedule(epoch)
        try:
            rate = float(rate)
        except (TypeError, ValueError) as error:
            message = (
                f"the schedule gave {rate!r} for epoch {epoch}, a {type(rate).__name__}; expected "
                "a number"
            )
            raise TypeError(message) from error
        if not (math.isfinite(rate) and rate >= 0):
            message = f"the schedule gave {rate!r} for epoch {epoch}; expected a finite rate >= 0"
            raise ValueError(message)
        for group in groups:
            ratio = float(group["lr"]) / current if current else 1.0
            set_rate(group, rate * ratio)


class ReduceLROnPlateau(MonitorCallback):
    """Lower the learning rate where a figure has not improved for `patience` epochs.

    Keras' callback; NaN is never an improvement, epochs that measure nothing new do not count, and
    a figure that the fit will not measure is refused before training.

    Args:
        monitor: The figure to watch.
        factor: What each rate is multiplied by, in (0, 1).
        patience: Epochs without improvement after which the rates fall.
        verbose: Kept for Keras; the rate is the column `lr` of the history, Keras' `learning_rate`.
        mode: "min", "max" or "auto".
        min_delta: Improvements up to this much don't count.
        cooldown: Epochs after a reduction in which patience is not tried.
        min_lr: What no rate falls below.

    Raises:
        ValueError: An argument is out of range, or the model has a schedule of torch's.
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
            message = f"factor is {factor!r}; expected a number between 0 and 1, as 0.1"
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
        """Forget an earlier fit."""
        super().forget()
        self.wait = 0
        self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier fit, and refuse a second schedule beside this one."""
        super().on_train_begin(logs)
        refuse_second(self)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Count the epoch as better or not, and lower the rates when patience is at its end."""
        value = self.value_in(logs)
        if value is None:
            return
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
        """Return what has been best, how long ago, and what is left of the cooldown."""
        counters = {"wait": self.wait, "cooldown_counter": self.cooldown_counter}
        return {**super().state_dict(), **counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        super().load_state_dict(state)
        self.wait, self.cooldown_counter = state["wait"], state["cooldown_counter"]

    def _reduce(self) -> None:
        lowered = False
        for group in groups_of(self.model):
            rate = float(group["lr"])
            if rate > self.min_lr:
                set_rate(group, max(rate * self.factor, self.min_lr))
                lowered = True
        if lowered:
            self.cooldown_counter = self.cooldown
            self.wait = 0


def groups_of(model: TrainedModel) -> list[dict[str, Any]]:
    """Return the parameter groups of a model's optimizer."""
    assert model.optimizer is not None, "a fit has an optimizer"
    return model.optimizer.param_groups


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a parameter group's learning rate, in its tensor where it is one."""
    if hasattr(group["lr"], "fill_"):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def refuse_second(callback: Callback) -> None:
    """Refuse a callback that sets rates beside a schedule of torch's, which sets them too.

    Raises:
        ValueError: The model has one.
    """
    scheduler = callback.model.lr_scheduler
    if scheduler is not None:
        message = (
            f"{type(callback).__name__} and lr_scheduler={type(scheduler).__name__} both set the "
            "learning rate; leave one of them out"
        )
        raise ValueError(message)


def _takes_rate(schedule: Any) -> bool:
    """Say whether a schedule takes `(epoch, lr)`, else `(epoch)`.

    Raises:
        TypeError: It takes neither.
    """
    if not callable(schedule):
        message = f"schedule is {schedule!r}; expected a function (epoch, lr) -> lr"
        raise TypeError(message)
    try:
        signature = inspect.signature(schedule)
    except ValueError:  # a built-in that tells no signature
        return False
    for arguments in ((0, 0.1), (0,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    message = f"schedule takes {signature}; expected (epoch, lr) or (epoch)"
    raise TypeError(message)
