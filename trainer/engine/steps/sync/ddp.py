"""DDP: each process holds the whole net, and gradients are averaged while backward runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from fitorch.engine.steps.training_measurement import TrainingMeasurement
from fitorch.errors import annotate
from fitorch.internals.torch import foreach_div_, release_group, scale_of
from fitorch.losses.terms import TermValue
from fitorch.nets.modes import modes_restored
from fitorch.optim.update import Update
from fitorch.randomness import undisturbed_randomness


class DDPSync:
    """Synchronizes gradients with torch's DistributedDataParallel.

    What the processes request and count travels with the gradients, as the gradient of two numbers
    that belong to no net. So a step needs no message of its own.

    Args:
        measurement: Measures a batch.
        measure: Calls the measurement, perhaps with batch norms over all processes.
        update: Changes the weights.
        find_unused: Look in each step for parameters that the loss does not depend on.
    """

    def __init__(
        self,
        measurement: TrainingMeasurement,
        measure: Callable[[Any], list[TermValue]],
        update: Update,
        *,
        find_unused: bool = False,
    ) -> None:
        self._measurement, self._measure, self._update = measurement, measure, update
        self._find_unused = find_unused
        self._module: _SignalingModule | None = None
        self._ddp: Any = None
        self._signal: Tensor
        self._trained: list[int] = []  # ids of the parameters that DDP synchronizes
        # The last message and its tensor: making a tensor takes as long as an addition.
        self._message: tuple[tuple[float, float | Tensor] | None, Tensor | None] = (None, None)

    def close(self) -> None:
        """Release the group: connections in which others wait close once nothing holds it."""
        if self._ddp is not None:
            release_group(self._ddp)
        self._module = self._ddp = None

    def begin_epoch(self) -> None:
        """Discard the DDP module if callbacks have frozen or unfrozen parameters."""
        trained = [
            id(parameter)
            for module in (self._measurement.spec.net, self._measurement.objective.module)
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        if trained != self._trained:
            self._module = self._ddp = None
            self._trained = trained

    def begin_update(self, batch: Any) -> None:
        """Wrap the net before its first update; clear the gradients."""
        if self._module is None:
            self._wrap(batch)
        assert self._module is not None
        self._update.zero_grad()
        # The two numbers belong to no optimizer, so `zero_grad` does not clear them.
        self._module.signal.grad = None

    def scope(self, *, closes: bool) -> AbstractContextManager[Any]:
        """Keep gradients in this process until a batch closes the update."""
        return nullcontext() if closes else self._ddp.no_sync()

    def forward(self, batch: Any) -> list[TermValue]:
        """Measure a batch through DDP."""
        try:
            parts, self._signal = self._ddp(batch)
        except RuntimeError as error:
            if "Expected to have finished reduction" in str(error):
                annotate(
                    error,
                    "the loss does not depend on some parameters in each step: freeze them "
                    "(requires_grad_(False)), or pass fit(find_unused_parameters=True)",
                )
            raise
        return parts  # type: ignore[no-any-return]

    def backward(self, total: Tensor, request: float, count: float | Tensor) -> None:
        """Add the gradients of a batch, and of what is passed along."""
        # The gradient of a dot product is its other factor: after DDP's average, the gradient of
        # the signal is the mean of the messages of all processes.
        self._update.backward(total + torch.dot(self._signal, self._as_tensor(request, count)))

    def totals(self) -> Tensor:
        """Return what arrived with the gradients."""
        assert self._module is not None
        totals = self._module.signal.grad
        assert totals is not None
        # The scaler has multiplied these gradients as well, and unscales only the optimizer's.
        scaler = self._update.scaler
        return totals if scaler is None else totals / scale_of(scaler)

    def divide(self, count: float | Tensor) -> None:
        """Divide the gradients."""
        gradients = [p.grad for p in self._update.parameters if p.grad is not None]
        foreach_div_(gradients, count)

    def _as_tensor(self, request: float, count: float | Tensor) -> Tensor:
        # On a device, numbers are written by its kernels, because a copy of them would wait.
        if isinstance(count, Tensor):
            message = torch.full_like(self._signal, request, requires_grad=False)
            message[1] = count
            return message
        known, message_before = self._message
        if message_before is None or known != (request, count):
            message_before = torch.full_like(self._signal, request, requires_grad=False)
            message_before[1].fill_(count)
            self._message = (request, count), message_before
        return message_before

    def _wrap(self, batch: Any) -> None:
        """Wrap the net, and run a forward and backward pass that changes nothing.

        After its first backward pass DDP rebuilds its buckets, and from then on adds up gradients
        in another order. That must happen before the first update: otherwise a resumed fit, which
        starts with a new DDP module, would round differently from an uninterrupted one.
        """
        measurement = self._measurement
        net = measurement.spec.net
        # The pass that changes nothing must not appear in the values of the epoch either.
        measurement.counts = False
        if any(is_lazy(p) for p in net.parameters()):
            with undisturbed_randomness(), modes_restored(net):
                net.eval()  # so that batch norms keep their statistics
                measurement.measure(batch)  # the net learns its shapes
        # The new module may lie on another device, or have another dtype.
        self._message = None, None
        self._module = _SignalingModule(net, measurement.objective.module, self._measure)
        self._ddp = DistributedDataParallel(
            self._module,
            find_unused_parameters=self._find_unused,
            gradient_as_bucket_view=True,  # gradients stay where they are added up
        )
        # Running statistics of batch norms change in the forward pass, even without an update.
        buffers = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        with undisturbed_randomness():
            parts = self.forward(batch)
            # All gradients become 0, but every parameter takes part, so that all buckets are built.
            total = sum(value for value, _ in parts) * 0.0
            self._update.backward(total + 0.0 * self._signal.sum())
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


class _SignalingModule(nn.Module):
    """Net and loss as one module for DDP, with two numbers whose gradients carry a message.

    Args:
        net: The net.
        losses: The loss' own module.
        measure: Returns the terms of a batch's loss.
    """

    def __init__(
        self, net: nn.Module, losses: nn.Module, measure: Callable[[Any], list[TermValue]]
    ) -> None:
        super().__init__()
        self.net, self.losses, self._measure = net, losses, measure
        like = next(p for p in (*net.parameters(), *losses.parameters()) if p.requires_grad)
        # fp16 and bf16 cannot hold counts: bf16 rounds integers above 256.
        wide = like.dtype if like.dtype is torch.float64 else torch.float32
        self.signal = nn.Parameter(torch.zeros(2, dtype=wide, device=like.device))

    def forward(self, batch: Any) -> tuple[list[TermValue], Tensor]:
        """Return the terms of a batch's loss, and the two numbers."""
        return self._measure(batch), self.signal * 1.0
