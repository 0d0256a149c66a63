"""The protocol of gradient synchronization: DDP, FSDP2 and ZeRO implement it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from fitorch.losses.terms import TermValue


class GradientSync(Protocol):
    """Adds up the gradients of the processes, and two numbers that each passes along.

    `DistributedStep` calls the methods in the order of their definition. The implementation is
    chosen once per fit; another way to distribute a net is another implementation.
    """

    def close(self) -> None:
        """Release the group of processes at the end of the fit."""

    def begin_epoch(self) -> None:
        """Follow callbacks that have frozen or unfrozen parameters."""

    def begin_update(self, batch: Any) -> None:
        """Clear the gradients before the first batch of an update."""

    def scope(self, *, closes: bool) -> AbstractContextManager[Any]:
        """Return the context of a batch; gradients are exchanged if it closes the update."""
        ...

    def forward(self, batch: Any) -> list[TermValue]:
        """Measure a batch and return the terms of its loss."""
        ...

    def backward(self, total: Tensor, request: float, count: float | Tensor) -> None:
        """Add the gradients of a batch.

        Args:
            total: The loss, already weighted by what it counts.
            request: 1 if this process asks for a synchronization of decisions, else 0.
            count: What the loss is a mean over, in units that all processes share.
        """

    def totals(self) -> Tensor:
        """Return the means over processes of their requests and counts, of shape (2,)."""
        ...

    def divide(self, count: float | Tensor) -> None:
        """Divide the gradients of the update by what their losses are means over."""
