"""Training steps of one of several processes, each of which holds the whole net."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from fitorch.errors import annotate
from fitorch.losses.terms import Part
from fitorch.nets.modes import modes_restored
from fitorch.randomness import undisturbed_randomness

from .joint import JointStep, Measured


class ReplicaStep(JointStep):
    """A training step for a net of which each process has a replica.

    DistributedDataParallel adds the gradients up while the backward goes on. Beside them travel, as
    the gradient of two numbers that belong to no net, what processes count and want: so no step
    needs another round of messages.

    Args:
        find_unused: Look in each step for parameters that the loss does not depend on.
        *args: As for `JointStep`.
        **options: As for `JointStep`.
    """

    def __init__(self, *args: Any, find_unused: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._find_unused = find_unused
        self._replica: _Replica | None = None
        self._ddp: Any = None
        self._trained: list[int] = []  # ids of the parameters that the replica trains
        self._told_before: dict[tuple[float, float], Tensor] = {}  # what was told last

    def begin_epoch(self) -> None:
        """Let go of the replica where callbacks froze or freed parameters."""
        modules = (self._measures.net, self.objective.module)
        trained = [id(p) for m in modules for p in m.parameters() if p.requires_grad]
        if trained != self._trained:
            self._replica = self._ddp = None
            self._trained = trained

    def _begin(self, batch: Any) -> None:
        if self._replica is None:
            self._replicate(batch)
        assert self._replica is not None
        self.update.zero_grad()
        self._replica.signal.grad = None

    def _syncing(self, *, closes: bool) -> AbstractContextManager[Any]:
        return nullcontext() if closes else self._ddp.no_sync()

    def _replicate(self, batch: Any) -> None:
        """Wrap the net, and take a step that changes nothing.

        After its first backward, DistributedDataParallel orders the gradients anew, and adds them
        up in another order from then on. That is over before the first update, so that a fit that
        is gone on with rounds as one that was never interrupted.
        """
        self._counts = False
        if any(is_lazy(p) for p in self._measures.net.parameters()):
            with undisturbed_randomness(), modes_restored(self._measures.net):
                self._measures.net.eval()  # so that batch norms count nothing
                self.measure(batch)  # the net learns its shapes
        self._last, self._told_before = batch, {}
        self._replica = _Replica(self, self._measures.net, self.objective.module)
        self._ddp = DistributedDataParallel(
            self._replica,
            find_unused_parameters=self._find_unused,
            gradient_as_bucket_view=True,  # gradients stay where they are added up
        )
        buffers = [(b, b.clone()) for b in self._replica.buffers()]
        with undisturbed_randomness():
            parts = self._measured(batch)
            total = sum(value for value, _ in parts) * 0.0
            self.update.backward(total + 0.0 * self._signal.sum())
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        self._refer(parts)

    def _forward(self, batch: Any) -> list[Part]:
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

    def _backward(self, total: Tensor, wants: float, part: Any) -> None:
        if isinstance(part, Tensor):  # on a device, where reading it would wait
            told = self._signal.new_tensor([wants, 0.0])
            told[1] = part
        else:
            told = self._told_before.get((wants, part))
            if told is None:  # seldom: making a tensor takes as long as adding it up
                told = self._signal.new_tensor([wants, part])
                self._told_before = {(wants, part): told}
        self.update.backward(total + torch.dot(self._signal, told))

    def _answer(self) -> Tensor:
        assert self._replica is not None
        answer = self._replica.signal.grad
        assert answer is not None
        scaler = self.update.scaler
        return answer if scaler is None else answer / scaler.get_scale()


class _Replica(Measured):
    """Net, loss, and two numbers whose gradients tell the other processes something.

    Args:
        step: Measures a batch.
        net: The net.
        losses: The loss' own module.
    """

    def __init__(self, step: ReplicaStep, net: nn.Module, losses: nn.Module) -> None:
        super().__init__(net, losses)
        like = next(p for p in (*net.parameters(), *losses.parameters()) if p.requires_grad)
        wide = like.dtype if like.dtype is torch.float64 else torch.float32
        self.signal = nn.Parameter(torch.zeros(2, dtype=wide, device=like.device))
        self.step = step

    def forward(self, batch: Any) -> tuple[list[Part], Tensor]:
        """Return the terms of a batch's loss, and the two numbers."""
        return super().forward(batch), self.signal * 1.0
