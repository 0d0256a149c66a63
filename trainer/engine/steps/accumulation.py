"""Gradient accumulation: several batches make one update, as one batch of all of them would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.tree import sample_count

from .training_measurement import TrainingMeasurement
from .updating import UpdatingStep
from .windows import windows

# A batch of a window; the divisors of its losses, or the error that says why they are not known;
# whether it is the last of its window.
MicroBatch = tuple[Any, Any, bool]


class AccumulatingStep(UpdatingStep[TrainingMeasurement]):
    """Updates the weights once per window of batches.

    Args:
        window: Batches of an update.
        *args: As for `UpdatingStep`.
    """

    def __init__(self, *args: Any, window: int) -> None:
        super().__init__(*args)
        self._window = window

    def __call__(self, batch: MicroBatch) -> None:
        """Train on a batch, and update the weights at the end of its window."""
        micro_batch, divisors, closes = batch
        # Gradients are cleared once per window, before its first batch.
        if not self._open:
            self.update.zero_grad()
        parts = self.measurement.measure(micro_batch)  # its errors are clearer than the divisors'
        if isinstance(divisors, Exception):
            raise divisors
        # The gradients of a window add up to those of one batch with all of its samples.
        self.update.backward(self.measurement.objective.total(parts, divisors))
        self._open = not closes
        if closes:
            self.update()

    def user_batch(self, batch: MicroBatch) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch[0]

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[MicroBatch]:
        """Return the batches with their divisors, window by window."""
        return micro_batches(batches, self._window, self._count)

    def _count(self, batch: Any) -> list[Any]:
        """Return for each loss what its mean is over: the samples of a batch, or their weights."""
        # The targets are counted before any forward pass, because the divisor of the first batch
        # depends on the last batch of the window.
        y_true, weight = self._targets_of(batch)
        if y_true is None:
            return [sample_count(batch)] * len(self.measurement.objective.losses)
        shares = self.measurement.objective.normalizers(
            None, y_true, self.measurement.weigh(y_true, weight)
        )
        return [_positive(share) for share in shares]

    def _targets_of(self, batch: Any) -> tuple[Any, Any]:
        """Return targets and sample weights, None if they are not known before the forward pass."""
        if self.measurement.spec.forward is not None:
            return None, None
        if isinstance(batch, Mapping):
            return batch.get("labels"), batch.get("sample_weight")
        if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
            return batch[1], batch[2] if len(batch) == 3 else None
        return None, None


def micro_batches(
    batches: Iterator[Any], size: int, count: Callable[[Any], list[Any]]
) -> Iterator[MicroBatch]:
    """Yield batches with the divisors of their losses, one window of `size` after the other.

    The gradients of the divided losses add up to those of one batch with all samples of a window.

    Args:
        batches: The batches of an epoch.
        size: Batches in a window.
        count: Returns for each loss what its mean over a batch is over: samples, or weights. Its
            error is yielded in the place of divisors, to be raised when that batch is trained on.
    """
    for window in windows(batches, size):
        yield from _with_divisors(window, count)


def _with_divisors(window: list[Any], count: Callable[[Any], list[Any]]) -> Iterator[MicroBatch]:
    counts: list[list[Any]] = []
    for batch in window:
        try:
            counts.append(count(batch))
        except Exception as error:  # noqa: PERF203 - raised when its batch is trained on
            # The earlier batches run with any divisors, so that an error of theirs is raised first.
            # Their gradients are never used: the window does not close before the error is raised.
            earlier = window[: len(counts)]
            yield from ((micro_batch, [1] * len(counts[0]), False) for micro_batch in earlier)
            yield batch, error, False
            return
    totals = [sum(column) for column in zip(*counts, strict=True)]
    for number, (batch, shares) in enumerate(zip(window, counts, strict=True), start=1):
        # The loss is a mean over `share`; divided by total / share it is the batch's part of the
        # mean over the window.
        divisors = [total / share for total, share in zip(totals, shares, strict=True)]
        yield batch, divisors, number == len(window)


def _positive(share: int | Tensor) -> int | Tensor:
    """Return a number that can be divided by: all samples of a batch may have the weight 0."""
    if isinstance(share, Tensor):
        # float64 is the widest dtype of all devices but MPS, which does not support it.
        wide = torch.float32 if share.device.type == "mps" else torch.float64
        return share.to(wide).clamp_min(torch.finfo(torch.float32).tiny)
    return share
