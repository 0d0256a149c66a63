"""Stop at a goal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .base import Logs
from .monitor import MonitorCallback


class StopAt(MonitorCallback):
    """Stop training as soon as a figure has reached a value.

    Args:
        value: The goal.
        monitor: The figure to watch.
        mode: "min", "max" or "auto": whether the figure should fall to the goal, or rise.

    Attributes:
        stopping_reason: Why training stopped, in a sentence, else "".

    Raises:
        ValueError: `value` is no finite number, or `mode` is unknown.
    """

    def __init__(self, value: float, monitor: str = "val_loss", mode: str = "auto") -> None:
        super().__init__(monitor, mode)
        given: Any = value
        number = isinstance(given, (int, float, np.number)) and not isinstance(given, bool)
        if not number or not math.isfinite(given):
            message = (
                f"value is {value!r}; expected a finite number, and then the figure, as in "
                "StopAt(0.9, 'val_acc')"
            )
            raise ValueError(message)
        self.value = float(value)
        self.stopping_reason = ""

    def forget(self) -> None:
        """Forget an earlier fit."""
        super().forget()
        self.stopping_reason = ""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look whether the goal is reached."""
        found = self.value_in(logs)
        if found is None:
            return
        self.watched.improves(found, epoch)  # its state tells how close it came
        sign = 1 if self.watched.mode == "min" else -1
        if sign * found <= sign * self.value:
            self.stopping_reason = f"{self.monitor} reached {self.value:g}"
            self.model.stop_training = True
