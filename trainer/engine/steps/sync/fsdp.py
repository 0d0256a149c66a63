"""FSDP2: each process holds a part of every weight, and receives the sum of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from fitorch.distributed.dtensor import local_tensor
from fitorch.distributed.update_totals import UpdateTotals
from fitorch.engine.steps.training_measurement import TrainingMeasurement
from fitorch.internals.torch import foreach_div_
from fitorch.losses.terms import TermValue
from fitorch.optim.update import Update


class FSDPSync:
    """Synchronizes gradients with FSDP2, which gathers the weights of each block before its use.

    Args:
        measurement: Measures a batch.
        measure: Calls the measurement, perhaps with batch norms over all processes.
        update: Changes the weights.
    """

    def __init__(
        self,
        measurement: TrainingMeasurement,
        measure: Callable[[Any], list[TermValue]],
        update: Update,
    ) -> None:
        self._net: Any = measurement.spec.net
        self._measure, self._update = measure, update
        self._totals = UpdateTotals(measurement.processes.world_size)

    def close(self) -> None:
        """Do nothing: the net itself stays distributed after the fit."""

    def begin_epoch(self) -> None:
        """Do nothing: FSDP2 supports freezing and unfreezing parameters."""

    def begin_update(self, batch: Any) -> None:
        """Clear the gradients."""
        self._totals.reset()
        self._update.zero_grad()

    def scope(self, *, closes: bool) -> AbstractContextManager[Any]:
        """Keep gradients in this process until a batch closes the update."""
        self._net.set_requires_gradient_sync(closes)
        return nullcontext()

    def forward(self, batch: Any) -> list[TermValue]:
        """Measure a batch."""
        return self._measure(batch)

    def backward(self, total: Tensor, request: float, count: float | Tensor) -> None:
        """Add the gradients of a batch."""
        self._update.backward(total)
        self._totals.add(total, request, count)

    def totals(self) -> Tensor:
        """Exchange requests and counts."""
        # This is a separate collective: FSDP2 has no place for the two numbers among its gradients.
        return self._totals.averaged()

    def divide(self, count: float | Tensor) -> None:
        """Divide the parts of the gradients that this process holds."""
        # Each process holds a shard of every gradient; a division needs no communication.
        gradients = [local_tensor(p.grad) for p in self._update.parameters if p.grad is not None]
        foreach_div_(gradients, count)
