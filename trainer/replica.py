"""Training steps of one of several processes, each of which holds the whole net."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from fitorch.losses.terms import Part

from .accord import Accord
from .errors import NonFiniteError, RankError, annotate
from .modes import modes_restored
from .norms import SyncedNorms
from .randomness import undisturbed_randomness
from .training import TrainingStep

_GLANCE = 16  # updates from one look at an accelerator's answer to the next


class ReplicaStep(TrainingStep):
    """A training step whose gradients are those of the batches of all processes as one.

    DistributedDataParallel adds the gradients up while the backward goes on. Beside them travel, as
    the gradient of two numbers that belong to no net, the samples (or weights) that the losses are
    means over, and whether a process wants to meet: so unequal batches count as what they are, and
    no step needs another round of messages.

    It takes batches, None where this process has none, or what `windows` makes of them.

    Args:
        accord: What the processes decide together.
        window: Batches of an update.
        sync_norms: Normalize over the batches of all processes.
        find_unused: Look in each step for parameters that the loss does not depend on.
        *args: As for `TrainingStep`.
    """

    def __init__(
        self,
        *args: Any,
        accord: Accord,
        window: int = 1,
        sync_norms: bool = False,
        find_unused: bool = False,
    ) -> None:
        super().__init__(*args)
        self._accord, self._window, self._find_unused = accord, window, find_unused
        self._norms = SyncedNorms(self._measures.net) if sync_norms else None
        self._replica: _Replica | None = None
        self._ddp: Any = None
        self._trained: list[int] = []  # ids of the parameters that the replica trains
        self._last: Any = None  # a batch to stand in where there is none
        self._counts = True  # whether the batch at work is one
        self._failure: NonFiniteError | None = None
        self._open = False
        self._unlooked = 0

    def __call__(self, batch: Any) -> None:
        """Train on a batch, updating at the end of its window."""
        batch, closes = batch if self._window > 1 else (batch, True)
        if batch is None and self._last is None:
            message = "there are fewer samples than processes; use fewer processes"
            raise RankError(message)
        if self._replica is None:
            self._replicate(batch)
        if not self._open:
            self._zero()
        with nullcontext() if closes else self._ddp.no_sync():
            self._add_gradients(batch)
        self._open = not closes
        if closes:
            self._settle()
            self.update()

    def begin_epoch(self) -> None:
        """Let go of the replica where callbacks froze or freed parameters."""
        modules = (self._measures.net, self.objective.module)
        trained = [id(p) for m in modules for p in m.parameters() if p.requires_grad]
        if trained != self._trained:
            self._replica = self._ddp = None
            self._trained = trained

    @property
    def at_boundary(self) -> bool:
        """Whether all batches that it took are in the weights."""
        return not self._open

    @property
    def done(self) -> bool:
        """Whether the processes have decided to stop; a window that has begun is finished first."""
        return not self._open and self._accord.stopped

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch[0] if self._window > 1 else batch

    def windows(self, batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        """Give each batch, and whether it is the last of its update."""
        window: list[Any] = []
        for batch in batches:
            window.append(batch)
            if len(window) == self._window:
                yield from ((each, n == self._window) for n, each in enumerate(window, 1))
                window = []
        yield from ((each, n == len(window)) for n, each in enumerate(window, 1))

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
        self._last = batch
        self._replica = _Replica(self, self._measures.net, self.objective.module)
        self._ddp = DistributedDataParallel(self._replica, find_unused_parameters=self._find_unused)
        buffers = [(b, b.clone()) for b in self._replica.buffers()]
        with undisturbed_randomness():
            parts, signal = self._forward(batch)
            self._reference = self.processes.from_main(float(parts[0][1])) or 1.0
            total = sum(value for value, _ in parts) * 0.0
            self.update.backward(total + 0.0 * signal.sum())
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        self._sums = all(self.objective.summed)
        self._check_shares(parts)

    def _check_shares(self, parts: list[Part]) -> None:
        """Refuse losses that are means over different weights, which one division can't join.

        Raises:
            RankError: There are such; it tells what to do.
        """
        if len({float(share) for _, share in parts}) > 1 or len(set(self.objective.summed)) > 1:
            message = (
                f"the terms of {self.objective.name} are means over different numbers of targets, "
                "or different weights, or sums; several processes need terms that count alike"
            )
            raise RankError(message)

    def _zero(self) -> None:
        self.update.zero_grad()
        assert self._replica is not None
        self._replica.signal.grad = None

    def _add_gradients(self, batch: Any) -> None:
        self._counts = batch is not None
        taken = self._last = self._last if batch is None else batch
        parts, signal = self._forward(taken)
        assert self._replica is not None
        share: Any = parts[0][1] if self._counts else 0
        if len(parts) > 1 and any(float(other) != float(share) for _, other in parts[1:]):
            self._check_shares(parts)
        if isinstance(share, Tensor):
            share = share.to(signal.dtype)  # an integer would become float32
        part = share / self._reference
        factor = float(self._counts) * self.processes.count if self._sums else part
        wants = float(self._failure is not None or self._accord.wanted)
        total = self.objective.total([(value, 1) for value, _ in parts]) * factor
        self.update.backward(total + _told(signal, wants, part))

    def _forward(self, batch: Any) -> tuple[list[Part], Tensor]:
        if self._norms is not None:
            self._norms.counts = self._counts
        try:
            with nullcontext() if self._norms is None else self._norms.applied():
                return self._ddp(batch)  # type: ignore[no-any-return]
        except RuntimeError as error:
            if "Expected to have finished reduction" in str(error):
                annotate(
                    error,
                    "the loss does not depend on some parameters in each step: freeze them "
                    "(requires_grad_(False)), or pass fit(find_unused_parameters=True)",
                )
            raise

    def _settle(self) -> None:
        """Divide the gradients by what all processes counted, and meet where one wants to.

        Raises:
            NonFiniteError: The loss was not finite in one of them.
        """
        assert self._replica is not None
        answer = self._replica.signal.grad
        assert answer is not None
        if self.update.scaler is not None:
            answer = answer / self.update.scaler.get_scale()
        looks = answer.device.type == "cpu" or self._unlooked >= _GLANCE
        self._unlooked = 0 if looks else self._unlooked + 1
        share: Any = answer[1]
        if looks:
            event, share = answer.tolist()
            if event:
                self._accord.meet(self._failure)
        if not self._sums and (not looks or share not in (0.0, 1.0)):
            self._divide(share)

    def _divide(self, share: Any) -> None:
        """Divide the gradients of means by what they are means over."""
        gradients = [p.grad for p in self.update.parameters if p.grad is not None]
        if isinstance(share, Tensor):
            share = share.clamp_min(torch.finfo(share.dtype).tiny)
        torch._foreach_div_(gradients, share)

    @property
    def _smallest_batch(self) -> int | None:
        return super()._smallest_batch if self._norms is None else None

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        if self._counts:
            super()._record(y_pred, y_true, weight, parts)

    def _tally(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        try:
            super()._tally(y_pred, y_true, weight, parts)
        except NonFiniteError as error:
            self._failure = error  # told to the others with the gradients


class _Replica(nn.Module):
    """Net, loss, and two numbers whose gradients tell the other processes something.

    Args:
        step: Measures a batch.
        net: The net.
        losses: The loss' own module.
    """

    def __init__(self, step: ReplicaStep, net: nn.Module, losses: nn.Module) -> None:
        super().__init__()
        self.net, self.losses = net, losses
        like = next(p for p in (*net.parameters(), *losses.parameters()) if p.requires_grad)
        wide = like.dtype if like.dtype is torch.float64 else torch.float32
        self.signal = nn.Parameter(torch.zeros(2, dtype=wide, device=like.device))
        self._measure: Callable[[Any], list[Part]] = lambda batch: step.measure(batch)

    def forward(self, batch: Any) -> tuple[list[Part], Tensor]:
        """Return the terms of a batch's loss, and the two numbers."""
        return self._measure(batch), self.signal * 1.0


def _told(signal: Tensor, wants: float, share: Any) -> Tensor:
    """Return 0, with a gradient that tells the others."""
    told = signal.new_tensor([wants, 0.0])
    told[1] = share
    return (signal * told).sum()
