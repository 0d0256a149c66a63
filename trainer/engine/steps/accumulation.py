"""Gradient accumulation: several batches make one update, as one batch of all of them would."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.capabilities import widened
from fitorch.internals.torch import foreach_div_
from fitorch.losses.terms import TermValue
from fitorch.nets.forward import has_graph_targets
from fitorch.tree import sample_count

from .loss_weighting import count_differently
from .training_measurement import TrainingMeasurement
from .updating import UpdatingStep
from .windows import windows

# A batch of a window; the divisors of its losses, or the error that says why they are not known,
# or None if only the forward pass shows them; whether it is the last of its window.
MicroBatch = tuple[Any, Any, bool]


class AccumulatingStep(UpdatingStep[TrainingMeasurement]):
    """Updates the weights once per window of batches.

    A loss is a mean over what its batch counts: samples, weights, or targets that are not ignored.
    If the targets show the counts of a window beforehand, each loss is divided as in one batch of
    the whole window. Otherwise, as with `forward=` or a net's own loss, each loss is multiplied by
    its count, and the gradients are divided by the sum of the counts.

    Args:
        window: Batches of an update.
        *args: As for `UpdatingStep`.
    """

    def __init__(self, *args: Any, window: int) -> None:
        super().__init__(*args)
        self.window = window
        self._counted = CountedWindow(self.measurement)
        self._samples: deque[Tensor | list[int]] = deque()  # of the batches that were read
        self._current: Tensor | list[int] = []
        self._divisor: Any = 1  # of the gradients of the last window

    def __call__(self, batch: MicroBatch) -> None:
        """Train on a batch, and update the weights at the end of its window."""
        # Gradients are cleared once per window, before its first batch.
        self._current = self._samples.popleft() if self._samples else []
        if not self._open:
            self.update.zero_grad()
        self._accumulate(batch)
        self._open = not batch[-1]
        if not self._open:
            self._divide()
            self._finish()

    def _accumulate(self, batch: MicroBatch) -> None:
        """Measure a batch and add its gradients."""
        micro_batch, divisors, closes = batch
        parts = self.measurement.measure(micro_batch)  # its errors are clearer than the divisors'
        if isinstance(divisors, Exception):
            raise divisors
        # The gradients of a window add up to those of one batch with all of its samples.
        if divisors is None:
            total = self._counted.add(parts, micro_batch, closes=closes)
        else:
            total = self.measurement.objective.total(parts, divisors)
        if total is not None:
            self._backward(total)

    def _backward(self, total: Tensor) -> None:
        self.update.backward(total)

    def _divide(self) -> None:
        """Divide the gradients of a window by its counts, where these are known only now."""
        self._divisor = self._counted.divide(self.update.parameters)

    def _finish(self) -> None:
        """Update the weights."""
        self.update()

    def served(self) -> Tensor | list[int]:
        """Return the first sample numbers of the batch that is trained on, if they are known."""
        return self._current  # the source has read the whole window already

    def user_batch(self, batch: MicroBatch) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch[0]

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[MicroBatch]:
        """Return the batches with their divisors, window by window."""
        self._samples.clear()
        counts_targets = self.measurement.spec.forward is None
        counts_targets &= self.measurement.objective.counts_before
        batches = self._noted(batches)
        if counts_targets:
            return micro_batches(batches, self.window, self._count)
        return (
            (batch, None, number == len(window))
            for window in windows(batches, self.window)
            for number, batch in enumerate(window, start=1)
        )

    def _noted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._samples.append(self.measurement.source.served())
            yield batch

    def _count(self, batch: Any) -> list[Any]:
        """Return for each loss what its mean is over: the samples of a batch, or their weights."""
        # The targets are counted before any forward pass, because the divisor of the first batch
        # depends on the last batch of the window.
        y_true, weight = _targets_of(batch)
        if y_true is None:
            return [sample_count(batch)] * len(self.measurement.objective.losses)
        shares = self.measurement.objective.normalizers(
            None, y_true, self.measurement.weigh(y_true, weight)
        )
        return [_positive(share) for share in shares]


class CountedWindow:
    """A window of batches whose counts are known only after their forward passes.

    Args:
        measurement: Measures the batches; it has the objective.
    """

    def __init__(self, measurement: TrainingMeasurement) -> None:
        self._objective = measurement.objective
        self._parts: list[list[TermValue]] = []  # of the batches, if their terms count differently
        self._kept = False  # whether the graphs of the batches are
        self._unit = 0  # of counts, 0 before the first batch
        self._count: int | Tensor = 0

    def add(self, parts: list[TermValue], batch: Any, *, closes: bool) -> Tensor | None:
        """Return the loss of a batch to add the gradients of; None if the last batch has them.

        Args:
            parts: The terms of its loss.
            batch: The batch.
            closes: Whether it is the last one of the window.
        """
        summed = self._objective.summed
        if self._kept or count_differently(parts) or len(set(summed)) > 1:
            # Gradients of terms with different divisors cannot be told apart once they are added
            # up, so the graphs of the whole window are kept: exact, at the memory of one batch.
            return self._add_kept(parts, closes=closes)
        if summed[0]:
            return self._objective.total(parts)
        if not self._unit:
            # So that losses keep their order of magnitude, which float16 needs.
            self._unit = sample_count(batch, default=0) or 1
        share = parts[0][1]
        self._count = self._count + share
        return self._objective.total(parts) * _cast_like(share, parts[0][0]) / self._unit

    def divide(self, parameters: list[torch.nn.Parameter]) -> Any:
        """Divide the gradients by the counts of the window; return the divisor."""
        divisor: Any = 1
        if not self._kept and self._unit:
            gradients = [p.grad for p in parameters if p.grad is not None]
            divisor = _positive(self._count) / self._unit
            foreach_div_(gradients, divisor)
        self._clear()
        return divisor

    def _add_kept(self, parts: list[TermValue], *, closes: bool) -> Tensor | None:
        if self._unit:
            message = (
                f"the terms of {self._objective.name} are means over different numbers in this "
                "batch, but over equal ones in an earlier batch of its update; pass the data as "
                "(features, targets) instead of forward=, or use gradient_accumulation_steps=1"
            )
            raise ValueError(message)
        self._kept = True
        self._parts.append(parts)
        if not closes:
            return None
        shares = [[_positive(share) for _, share in batch] for batch in self._parts]
        totals = [sum(column) for column in zip(*shares, strict=True)]
        losses = [
            self._objective.total(
                batch, [total / share for total, share in zip(totals, row, strict=True)]
            )
            for batch, row in zip(self._parts, shares, strict=True)
        ]
        return sum(losses[1:], start=losses[0])

    def _clear(self) -> None:
        self._parts, self._kept, self._unit, self._count = [], False, 0, 0


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


def _targets_of(batch: Any) -> tuple[Any, Any]:
    """Return targets and sample weights of a batch, None if it has none."""
    if isinstance(batch, Mapping):
        return batch.get("labels"), batch.get("sample_weight")
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        return batch[1], batch[2] if len(batch) == 3 else None
    return getattr(batch, "y", None) if has_graph_targets(batch) else None, None


def _positive(share: int | Tensor) -> int | Tensor:
    """Return a number that can be divided by: all samples of a batch may have the weight 0."""
    if isinstance(share, Tensor):
        return widened(share).clamp_min(torch.finfo(torch.float32).tiny)
    return share


def _cast_like(share: int | Tensor, value: Tensor) -> int | Tensor:
    return share.to(value.dtype) if isinstance(share, Tensor) else share
