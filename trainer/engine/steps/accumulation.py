"""Gradient accumulation: several batches make one update, as one batch of all of them would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.tree import sample_count

from .training import TrainingStep


class AccumulatingStep(TrainingStep):
    """A training step that updates once per window of batches.

    It takes what `arranged` gives: a batch, what to divide its losses by, whether it ends a window.

    Args:
        window: Batches of an update.
        *args: As for `TrainingStep`.
    """

    def __init__(self, *args: Any, window: int) -> None:
        super().__init__(*args)
        self._window = window

    def __call__(self, batch: Micro) -> None:
        """Train on a batch, updating at the end of its window."""
        micro_batch, divisors, closes = batch
        if not self._open:
            self.update.zero_grad()
        parts = self.measure(micro_batch)  # says in its own words what is wrong with a batch
        if isinstance(divisors, Exception):
            raise divisors
        self.update.backward(self.objective.total(parts, divisors))
        self._open = not closes
        if closes:
            self.update()

    def user_batch(self, batch: Micro) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch[0]

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Micro]:
        """Group batches to windows."""
        return windows(batches, self._window, self._count)

    def _targets_of(self, batch: Any) -> tuple[Any, Any]:
        """Return targets and sample weights, None where they are not known before the forward."""
        if self._measures.forward is not None:
            return None, None
        if isinstance(batch, Mapping):
            return batch.get("labels"), batch.get("sample_weight")
        if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
            return batch[1], batch[2] if len(batch) == 3 else None
        return None, None

    def _count(self, batch: Any) -> list[Any]:
        """Return how much a batch counts in its window: its share in the mean of each loss."""
        y_true, weight = self._targets_of(batch)
        if y_true is None:
            return [sample_count(batch)] * len(self.objective.losses)
        shares = self.objective.shares(None, y_true, self._weigh(y_true, weight))
        return [_positive(share) for share in shares]


def _positive(share: int | Tensor) -> int | Tensor:
    """Return a share that can be divided by: all samples of a batch may weigh 0."""
    if isinstance(share, Tensor):
        wide = torch.float32 if share.device.type == "mps" else torch.float64
        return share.to(wide).clamp_min(torch.finfo(torch.float32).tiny)
    return share


# A batch of a window; what to divide its losses by, a list, or the error that says why that is not
# known; whether it is the last of the window.
Micro = tuple[Any, Any, bool]


def windows(
    batches: Iterator[Any], size: int, count: Callable[[Any], list[Any]]
) -> Iterator[Micro]:
    """Group batches to windows of `size`, one update each; the last window may be shorter.

    Args:
        batches: The batches of an epoch.
        size: Batches in a window.
        count: Gives how much a batch counts for each loss: samples, or the sum of weights.

    Yields:
        The batch; for each loss what to divide its mean by, so that the gradients of a window add
        up to those of one batch with all its samples, or the error with which `count` refused the
        batch; whether it is the last of its window.
    """
    window: list[Any] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield from _shares(window, count)
            window = []
    yield from _shares(window, count)


def _shares(window: list[Any], count: Callable[[Any], list[Any]]) -> Iterator[Micro]:
    counts = []
    for batch in window:
        try:
            counts.append(count(batch))
        except Exception as error:  # noqa: PERF203 - told when its batch is at work
            yield from ((each, [1] * len(counts[0]), False) for each in window[: len(counts)])
            yield batch, error, False
            return
    totals = [sum(column) for column in zip(*counts, strict=True)]
    for number, (batch, shares) in enumerate(zip(window, counts, strict=True), start=1):
        divisors = [total / share for total, share in zip(totals, shares, strict=True)]
        yield batch, divisors, number == len(window)
