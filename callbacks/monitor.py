"""Monitoring: the column to monitor, its direction, and whether its value improved."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Container, Iterable, Mapping
from typing import Any

from .base import Callback, Logs


class NonFiniteMetricWarning(UserWarning):
    """A monitored value is NaN, which is never the best."""


class Monitor:
    """The best value of a column so far, and the comparison of new values with it.

    Args:
        name: The column, such as "val_loss".
        mode: "min" or "max".
        min_delta: The smallest change that counts as an improvement; it must be exceeded.
    """

    def __init__(self, name: str, mode: str, min_delta: float = 0.0) -> None:
        self.name = name
        self.mode = check_mode(mode)
        self.min_delta = abs(min_delta)
        self.best: float | None = None
        self.best_epoch: int | None = None

    def improves(self, value: float, epoch: int) -> bool:
        """Return whether a new value is better than the best so far, which it then replaces.

        Args:
            value: The new value; NaN is never better, and causes a warning.
            epoch: The epoch of the value, counted from 0.
        """
        # This comes before the comparison, in which NaN would be neither better nor worse.
        if math.isnan(value):
            best = "none yet" if self.best is None else f"{self.best:.6g}"
            warnings.warn(
                f"{self.name} is NaN in epoch {epoch + 1} (best so far: {best}); it is ignored",
                NonFiniteMetricWarning,
                stacklevel=2,
            )
            return False
        sign = 1 if self.mode == "min" else -1
        if self.best is not None and not sign * value < sign * self.best - self.min_delta:
            return False
        self.best, self.best_epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the column, its best value and the epoch of that."""
        return {"name": self.name, "best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best value, unless it belongs to a different column."""
        if state["name"] != self.name:
            warnings.warn(
                f"{self.name} is monitored instead of {state['name']}; its best value so far is "
                "unknown",
                stacklevel=2,
            )
            self.best = self.best_epoch = None
            return
        self.best, self.best_epoch = state["best"], state["best_epoch"]


def check_monitor_name(monitor: object) -> None:
    """Raise an error unless a monitor is a string.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(monitor, str):
        message = f"monitor is {monitor!r}; expected the name of a column, as 'val_loss'"
        raise TypeError(message)


class MonitorCallback(Callback):
    """Base class of callbacks that monitor a column at the end of epochs.

    The state is reset at the beginning of each fit, unless a saved state was restored just before.
    Training columns are means over weights that change from batch to batch; validation columns
    measure the weights at the end of an epoch. A column that the fit does not measure raises an
    error before training; Keras warns in each epoch.

    Args:
        monitor: The column, such as "val_loss" or "val_acc"; "loss" is short for "train_loss". It
            may be a column that an earlier callback adds and declares in its attribute `adds`.
        mode: "min", "max" or "auto". "auto" is "min" for losses, and the direction of the metric
            for metrics.
        min_delta: The smallest change that counts as an improvement; it must be exceeded.

    Attributes:
        optional: Columns that earlier callbacks add, but perhaps not in each epoch.

    Raises:
        ValueError: `mode` is unknown.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", min_delta: float = 0.0
    ) -> None:
        if mode != "auto":
            check_mode(mode)
        check_monitor_name(monitor)
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta
        # `set_direction` replaces the direction before training if the mode is "auto".
        self.watched = Monitor(monitor, "min" if mode == "auto" else mode, min_delta)
        self.optional: frozenset[str] = frozenset()
        self._restored = False

    @property
    def watches(self) -> bool:
        """Whether the callback uses the monitored value."""
        return True

    @property
    def placeholders(self) -> list[str]:
        """Other columns that the callback needs."""
        return []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the state of an earlier fit, unless a saved state was restored."""
        # A checkpoint is restored before on_train_begin, whose hook must not discard it.
        if not self._restored:
            self.forget()
        self._restored = False

    def forget(self) -> None:
        """Discard the best value."""
        self.watched.best = self.watched.best_epoch = None

    def set_direction(self, mode: str) -> None:
        """Set the direction of the column if `mode` is "auto"; `fit` infers it before training."""
        if self.mode == "auto":
            self.watched.mode = check_mode(mode)

    def value_in(self, logs: Logs | None) -> float | None:
        """Return the monitored value, or None in an epoch in which it is not due.

        It is not due in an epoch without validation if it is a validation column, and in an epoch
        in which an earlier callback did not add it.

        Raises:
            ValueError: The value is missing in an epoch in which it is due.
        """
        if not logs:
            return None
        if self.monitor in logs:
            # A callback may have added a tensor, which this reads from its device.
            return float(logs[self.monitor])
        if not self.optional.isdisjoint(spellings(self.monitor)):
            return None
        if self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
            return None
        raise ValueError(_not_measured_message(self.monitor, list(logs), type(self).__name__))

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its epoch."""
        return self.watched.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state for the next fit."""
        self.watched.load_state_dict(state)
        self._restored = True


def check_mode(mode: str) -> str:
    """Return `mode` if it is "min" or "max".

    Raises:
        ValueError: `mode` is neither of them.
    """
    if mode not in ("min", "max"):
        message = f"mode is {mode!r}; expected 'min', 'max' or 'auto'"
        raise ValueError(message)
    return mode


def added_columns(callback: Any) -> tuple[str, ...]:
    """Return the columns that a callback adds to the logs of epochs, from its attribute `adds`.

    Raises:
        TypeError: `adds` contains something other than names.
    """
    adds = getattr(callback, "adds", ())
    if isinstance(adds, str):
        return (adds,)
    if not isinstance(adds, (tuple, list, set, frozenset)):  # an unrelated method, or a mock
        return ()
    if not all(isinstance(name, str) for name in adds):
        message = f"{type(callback).__name__}.adds is {adds!r}; expected column names"
        raise TypeError(message)
    return tuple(adds)


def spellings(monitor: str) -> tuple[str, str]:
    """Return the names of a column in the logs: `monitor` itself, and with the prefix `train_`."""
    return monitor, f"train_{monitor}"


def check_monitor(
    monitor: str, measured: Iterable[str], who: str, numbers: Container[str] = ()
) -> None:
    """Check before training that a fit measures a column.

    Args:
        monitor: The column.
        measured: All columns that the fit measures. A metric that returns several values is in it
            with the common prefix of its columns.
        who: The name of the callback or argument, for the message.
        numbers: The columns that are not metrics, and therefore not prefixes.

    Raises:
        ValueError: The fit does not measure the column.
    """
    names = list(measured)
    if any(name in names for name in spellings(monitor)):
        return
    # The columns of a metric that returns several values are unknown before the first batch.
    if any(monitor.startswith(f"{name}_") for name in names if name not in numbers):
        return
    raise ValueError(_not_measured_message(monitor, names, who))


def _not_measured_message(monitor: str, names: list[str], who: str) -> str:
    """Return the error message for a column that the fit does not measure."""
    close = difflib.get_close_matches(monitor, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    unvalidated = monitor.startswith("val_") and not any(n.startswith("val_") for n in names)
    advice = "pass val_data, or one of these as monitor" if unvalidated else "pass one of these"
    if not close and not monitor.startswith(("train_", "val_")):
        advice += f"; a callback that adds it to the logs needs adds = ({monitor!r},)"
    return f"{who} monitors {monitor!r}{hint}, but this fit measures {names}; {advice}"
