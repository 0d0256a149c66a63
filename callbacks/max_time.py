"""MaxTime: a callback that stops training after a time limit."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import ClassVar

from .base import Callback, Logs


class MaxTime(Callback):
    """Stop training after the batch in which the time limit is exceeded.

    The epoch is validated and recorded. If the fit saves checkpoints, it saves one before that, so
    that `fit(resume=True)` can continue within the epoch.

    Args:
        limit: A timedelta, seconds, or "HH:MM:SS".

    Attributes:
        stopping_reason: The reason for the stop, else "".

    Raises:
        ValueError: `limit` is not a time above 0.
    """

    pauses: ClassVar[bool] = True  # training is not complete, and may be resumed

    def __init__(self, limit: timedelta | float | str) -> None:
        self.seconds = seconds_of(limit)
        self.stopping_reason = ""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start the clock."""
        self.stopping_reason = ""
        # The clock is monotonic: the time of day may be set while training runs.
        self._end = time.monotonic() + self.seconds

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stop if the time limit is exceeded."""
        if time.monotonic() >= self._end:
            self.stopping_reason = f"max_time of {self.seconds:g} s is up"
            self.model.stop_training = True


def seconds_of(limit: timedelta | float | str) -> float:
    """Return a time limit in seconds.

    Raises:
        ValueError: `limit` is not a timedelta, a number or "HH:MM:SS", or not above 0.

    Example:
        >>> seconds_of("01:30:00")
        5400.0
    """
    try:
        if isinstance(limit, timedelta):
            seconds = limit.total_seconds()
        elif isinstance(limit, str):
            hours, minutes, remainder = limit.split(":")
            seconds = 3600 * float(hours) + 60 * float(minutes) + float(remainder)
        else:
            seconds = float(limit)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds > 0:
        message = f"max_time is {limit!r}; expected a timedelta, seconds above 0 or 'HH:MM:SS'"
        raise ValueError(message)
    return seconds
