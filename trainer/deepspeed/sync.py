"""Gradient synchronization by DeepSpeed's engine: a `GradientSync` for ZeRO-1 and ZeRO-2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from fitorch.distributed.update_totals import UpdateTotals
from fitorch.losses.objective import Objective
from fitorch.losses.penalty_term import PenaltyTerm
from fitorch.losses.terms import TermValue

from .update import ZeroUpdate


class ZeroSync:
    """Synchronizes gradients with DeepSpeed's engine, which keeps the part that a process updates.

    Gradients cannot be changed afterwards. So penalties are part of the loss here, and the update
    divides the gradients of means.

    Args:
        objective: The loss of a batch.
        measure: Measures a batch.
        update: Changes the weights by DeepSpeed's engine.
        world_size: The number of processes.
    """

    def __init__(
        self,
        objective: Objective,
        measure: Callable[[Any], list[TermValue]],
        update: ZeroUpdate,
        world_size: int,
    ) -> None:
        self._penalties: Sequence[PenaltyTerm] = objective.penalties
        self._sums = all(objective.summed)
        self._measure, self._update = measure, update
        self._totals = UpdateTotals(world_size)
        self._averaged: Tensor
        self._closes = True

    def close(self) -> None:
        """Do nothing: the net itself stays distributed after the fit."""

    def begin_epoch(self) -> None:
        """Create a new engine if callbacks have frozen or unfrozen parameters."""
        self._update.zero_optimizer.follow()
        # The module exists before the measurement does.
        self._update.zero_optimizer.module.measure = self._measure

    def begin_update(self, batch: Any) -> None:
        """Start an update; DeepSpeed clears the gradients itself."""
        self._totals.reset()
        self._update.divisor = 1.0

    def scope(self, *, closes: bool) -> AbstractContextManager[Any]:
        """Set on the engine whether a batch closes the update."""
        self._closes = closes
        # This comes before the backward pass, in which DeepSpeed reduces gradients at a boundary.
        self._update.zero_optimizer.engine.set_gradient_accumulation_boundary(closes)
        return nullcontext()

    def forward(self, batch: Any) -> list[TermValue]:
        """Measure a batch through the engine."""
        parts: list[TermValue] = self._update.zero_optimizer.engine(batch)
        return parts

    def backward(self, total: Tensor, request: float, count: float | Tensor) -> None:
        """Add the gradients of a batch; those of the penalties with the last one."""
        # The totals of a window are exchanged once, with its last batch.
        self._totals.add(total, request, count)
        if self._closes:
            # Exchanged before the backward pass: the update divides all gradients by the count,
            # and the penalties' must come out undivided.
            self._averaged = self._totals.averaged()
            factor = self._divisor(self._averaged[1])
            for penalty in self._penalties:
                total = total + penalty() * factor
        self._update.backward(total)

    def totals(self) -> Tensor:
        """Return the means of what the processes request and count."""
        return self._averaged

    def divide(self, count: float | Tensor) -> None:
        """Let the update divide the gradients."""
        self._update.divisor = self._divisor(count)

    def _divisor(self, count: float | Tensor) -> float:
        # On an accelerator this waits for the device, once per update. Without any count, all
        # gradients are 0, and 1 keeps them.
        return 1.0 if self._sums else float(count) or 1.0
