"""StopAt: a callback that stops training when a monitored value reaches a target."""

from __future__ import annotations

import math
from typing import Any

from fitorch.checks import plain

from .base import Logs
from .monitor import MonitorCallback


class StopAt(MonitorCallback):
    """Stop training when a monitored value reaches a target.

    Args:
        value: The target.
        monitor: The column to monitor.
        mode: "min", "max" or "auto": whether the value must fall ("min") or rise to the target.

    Attributes:
        stopping_reason: The reason for the stop, else "".

    Raises:
        ValueError: `value` is not a finite number, or `mode` is unknown.
    """

    def __init__(self, value: float, monitor: str = "val_loss", mode: str = "auto") -> None:
        super().__init__(monitor, mode)
        target: Any = plain(value)
        number = isinstance(target, (int, float)) and not isinstance(target, bool)
        if not number or not math.isfinite(target):
            message = (
                f"value is {value!r}; expected a finite number, and then the column, as in "
                "StopAt(0.9, 'val_acc')"
            )
            raise ValueError(message)
        self.value = float(value)
        self.stopping_reason = ""

    def forget(self) -> None:
        """Discard the state of an earlier fit."""
        super().forget()
        self.stopping_reason = ""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Stop if the target is reached."""
        value = self.value_in(logs)
        if value is None:
            return
        self.watched.improves(value, epoch)  # records the best value
        sign = 1 if self.watched.mode == "min" else -1
        # NaN compares as False and never reaches the target.
        if sign * value <= sign * self.value:
            self.stopping_reason = f"{self.monitor} reached {self.value:g}"
            self.model.stop_training = True
