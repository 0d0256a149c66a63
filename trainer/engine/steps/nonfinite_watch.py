"""A watch for losses that are not finite, on devices where reading each loss would wait."""

from __future__ import annotations

from math import isfinite
from time import perf_counter

from fitorch.devices.copies import Glance
from fitorch.metrics.means import Means

_PAUSE = 1.0  # seconds between two looks


class NonFiniteWatch:
    """Looks about once a second whether a loss of the epoch was NaN or infinite.

    The figures of an epoch show that as well, but hours of updates by NaN would be lost until then.

    Args:
        losses: The means of the losses.
    """

    def __init__(self, losses: Means) -> None:
        self._losses = losses
        self._next = perf_counter() + _PAUSE
        self._glance: Glance | None = None

    def __call__(self) -> int | None:
        """Return the number of the first batch with such a loss, from 0, if it is known."""
        now = perf_counter()
        if now < self._next:
            return None
        if self._glance is None:
            index = self._losses.first_nonfinite_index()
            self._glance = None if index is None else Glance(index)
        elif self._glance.arrived:
            found, self._glance, self._next = self._glance.value, None, now + _PAUSE
            return int(found) if isfinite(found) else None
        return None
