"""Which figure to watch, in which direction it improves, and whether it just did."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Container, Iterable, Mapping
from typing import Any

from .base import Callback, Logs


class NonFiniteMetricWarning(UserWarning):
    """A monitored figure is NaN; it is never the best."""


class Monitor:
    """Tells whether a figure is better than all before it.

    Args:
        name: The figure, as "val_loss".
        mode: "min" or "max".
        min_delta: How much better than the best it must be.
    """

    def __init__(self, name: str, mode: str, min_delta: float = 0.0) -> None:
        self.name = name
        self.mode = check_mode(mode)
        self.min_delta = abs(min_delta)
        self.best: float | None = None
        self.best_epoch: int | None = None

    def improves(self, value: float, epoch: int) -> bool:
        """Compare a new value with the best so far, and keep it where it is better.

        Args:
            value: The figure; NaN never improves, and warns.
            epoch: The epoch it was measured in, from 0.
        """
        if math.isnan(value):
            best = "none yet" if self.best is None else f"{self.best:.6g}"
            warnings.warn(
                f"{self.name} is nan in epoch {epoch + 1} (best so far: {best}); it does not count",
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
        """Return the best value and its epoch, and the figure that they are of."""
        return {"name": self.name, "best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back; those of another figure say nothing about this one."""
        if state["name"] != self.name:
            warnings.warn(
                f"{self.name} is monitored now instead of {state['name']}; what was best of it is "
                "not known",
                stacklevel=2,
            )
            self.best = self.best_epoch = None
            return
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class MonitorCallback(Callback):
    """A callback that watches one figure at the end of epochs.

    It begins each fit afresh, unless a saved state was put back just before. A training figure is
    a mean over weights that change from batch to batch; a validation figure tells about those that
    an epoch ends with. A figure that the fit will not measure is refused before training, where
    Keras warns in each epoch.

    Args:
        monitor: The figure, as "val_loss" or "val_acc"; "loss" stands for "train_loss". Or one that
            a callback before this one adds, which lists it in its attribute `adds`.
        mode: "min", "max", or "auto": what the figure itself tells, min for losses.
        min_delta: How much better than the best it must be to count as better.

    Attributes:
        optional: Figures that callbacks before this one add, though perhaps not in each epoch.

    Raises:
        ValueError: `mode` is none of the three.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", min_delta: float = 0.0
    ) -> None:
        if mode != "auto":
            check_mode(mode)
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta
        self.watched = Monitor(monitor, "min" if mode == "auto" else mode, min_delta)
        self.optional: frozenset[str] = frozenset()
        self._restored = False

    @property
    def watches(self) -> bool:
        """Whether it looks at the figure at all."""
        return True

    @property
    def placeholders(self) -> list[str]:
        """Other figures that it needs."""
        return []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier fit."""
        if not self._restored:
            self.forget()
        self._restored = False

    def forget(self) -> None:
        """Forget what has been best."""
        self.watched.best = self.watched.best_epoch = None

    def set_direction(self, mode: str) -> None:
        """Receive the direction of the figure, found out before training, where mode is auto."""
        if self.mode == "auto":
            self.watched.mode = check_mode(mode)

    def value_in(self, logs: Logs | None) -> float | None:
        """Return the figure, or None in an epoch in which it was not due.

        That is an epoch without validation where that measures it, or one in which the callback
        that adds the figure left it out.

        Raises:
            ValueError: The epoch should have measured it, but did not.
        """
        if not logs:
            return None
        if self.monitor in logs:
            return float(logs[self.monitor])
        if not self.optional.isdisjoint(spellings(self.monitor)):
            return None
        if self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
            return None
        raise ValueError(_not_measured_message(self.monitor, list(logs), type(self).__name__))

    def state_dict(self) -> dict[str, Any]:
        """Return what has been best."""
        return self.watched.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back, for the fit that begins next."""
        self.watched.load_state_dict(state)
        self._restored = True


def check_mode(mode: str) -> str:
    """Return `mode`.

    Raises:
        ValueError: It is neither "min" nor "max".
    """
    if mode not in ("min", "max"):
        message = f"mode is {mode!r}; expected 'min', 'max' or 'auto'"
        raise ValueError(message)
    return mode


def added_columns(callback: Any) -> tuple[str, ...]:
    """Return the figures that a callback says it adds to the logs of epochs.

    Raises:
        TypeError: Its attribute `adds` holds something else than names.
    """
    adds = getattr(callback, "adds", ())
    if isinstance(adds, str):
        return (adds,)
    if not isinstance(adds, (tuple, list, set, frozenset)):  # a method of that name, or a mock
        return ()
    if not all(isinstance(name, str) for name in adds):
        message = f"{type(callback).__name__}.adds is {adds!r}; expected names of figures"
        raise TypeError(message)
    return tuple(adds)


def spellings(monitor: str) -> tuple[str, str]:
    """Return the names that a figure may have in the logs: as given, and of training."""
    return monitor, f"train_{monitor}"


def check_monitor(
    monitor: str, measured: Iterable[str], who: str, numbers: Container[str] = ()
) -> None:
    """Refuse a figure that a fit will not measure, before it trains.

    Args:
        monitor: The figure asked for.
        measured: All that the fit measures. A metric that gives several figures is known by what
            they begin with.
        who: Who asks, for the message.
        numbers: Those of them that are no metrics, and one number each.

    Raises:
        ValueError: It names what will be measured, and the closest.
    """
    names = list(measured)
    if any(name in names for name in spellings(monitor)):
        return
    if any(monitor.startswith(f"{name}_") for name in names if name not in numbers):
        return
    raise ValueError(_not_measured_message(monitor, names, who))


def _not_measured_message(monitor: str, names: list[str], who: str) -> str:
    """Say that `monitor` is not among `names`, which is closest, and the way out."""
    close = difflib.get_close_matches(monitor, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    unvalidated = monitor.startswith("val_") and not any(n.startswith("val_") for n in names)
    way_out = "pass val_data, or one of these as monitor" if unvalidated else "pass one of these"
    if not close and not monitor.startswith(("train_", "val_")):
        way_out += f"; a callback of yours that adds it to the logs needs adds = ({monitor!r},)"
    return f"{who} monitors {monitor!r}{hint}, but this fit measures {names}; {way_out}"
