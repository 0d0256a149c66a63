"""Stop when the time is up."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import ClassVar

from .base import Callback, Logs


class MaxTime(Callback):
    """Stop after the batch in which the time is up; the epoch is validated and counted.

    Args:
        limit: A timedelta, seconds, or "HH:MM:SS".

    Where checkpoints are saved, one is before that: `fit(resume=True)` goes on within the epoch.

    Attributes:
        stopping_reason: Why training stopped, in a sentence, else "".

    Raises:
        ValueError: `limit` is no such thing, or not above 0.
    """

    pauses: ClassVar[bool] = True  # training may go on another time

    def __init__(self, limit: timedelta | float | str) -> None:
        self.seconds = seconds_of(limit)
        self.stopping_reason = ""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start the clock."""
        self.stopping_reason = ""
        self._end = time.monotonic() + self.seconds

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Look at the clock."""
        if time.monotonic() >= self._end:
            self.stopping_reason = f"max_time of {self.seconds:g} s is up"
            self.model.stop_training = True


def seconds_of(limit: timedelta | float | str) -> float:
    """Return a time limit in seconds.

    Raises:
        ValueError: `limit` is no timedelta, number or "HH:MM:SS", or not above 0.

    Example:
        >>> seconds_of("01:30:00")
        5400.0
    """
    try:
        if isinstance(limit, timedelta):
            seconds = limit.total_seconds()
        elif isinstance(limit, str):
            hours, minutes, rest = limit.split(":")
            seconds = 3600 * float(hours) + 60 * float(minutes) + float(rest)
        else:
            seconds = float(limit)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds > 0:
        message = f"max_time is {limit!r}; expected a timedelta, seconds above 0 or 'HH:MM:SS'"
        raise ValueError(message)
    return seconds
