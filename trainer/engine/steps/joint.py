"""Training steps of one of several processes: what they have in common, wherever the net lies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn

from fitorch.distributed.sync_batchnorm import SyncedNorms
from fitorch.engine.coordinator import Accord
from fitorch.errors import NonFiniteError, RankError
from fitorch.losses.terms import Part

from .training import TrainingStep

_GLANCE = 16  # updates from one look at an accelerator's answer to the next


class JointStep(TrainingStep):
    """A training step whose gradients are those of the batches of all processes as one.

    The gradients of a process count by the samples (or weights) that its losses are means over, so
    unequal batches count as what they are. It takes batches, None where this process has none, or
    what `arranged` makes of them.

    Args:
        accord: What the processes decide together.
        window: Batches of an update.
        sync_norms: Normalize over the batches of all processes.
        *args: As for `TrainingStep`.
    """

    def __init__(
        self, *args: Any, accord: Accord, window: int = 1, sync_norms: bool = False
    ) -> None:
        super().__init__(*args)
        self._accord, self._window = accord, window
        self._norms = SyncedNorms(self._measures.net) if sync_norms else None
        self._reference: float | None = None  # what shares are told in, so that most are 1
        self._last: Any = None  # a batch to stand in where there is none
        self._counts = True  # whether the batch at work is one
        self._failure: NonFiniteError | None = None
        self._apart: bool | None = None  # whether terms count differently, once one has been seen
        self._unlooked = 0

    def __call__(self, batch: Any) -> None:
        """Train on a batch, updating at the end of its window."""
        batch, closes = batch if self._window > 1 else (batch, True)
        if batch is None and self._last is None:
            message = "there are fewer samples than processes; use fewer processes"
            raise RankError(message)
        if not self._open:
            self._begin(batch)
        with self._syncing(closes=closes):
            self._add_gradients(batch)
        self._open = not closes
        if closes:
            self._settle()
            self.update()

    @abstractmethod
    def _begin(self, batch: Any) -> None:
        """Begin an update, whose first batch this is."""

    @abstractmethod
    def _syncing(self, *, closes: bool) -> AbstractContextManager[Any]:
        """Have gradients added up over the processes, where a batch is the last of its window."""

    @abstractmethod
    def _forward(self, batch: Any) -> list[Part]:
        """Return the terms of a batch's loss."""

    @abstractmethod
    def _backward(self, total: Tensor, wants: float, part: Any) -> None:
        """Add the gradients of a batch, and note what the process wants and its part."""

    @abstractmethod
    def _answer(self) -> Tensor:
        """Return the means over processes of what they want, and of their parts."""

    @property
    def done(self) -> bool:
        """Whether the processes have decided to stop; a window that has begun is finished first."""
        return not self._open and self._accord.stopped

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch[0] if self._window > 1 else batch

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Give each batch; where several make an update, also whether it is the last of them."""
        return self._windows(batches) if self._window > 1 else batches

    def _windows(self, batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        window: list[Any] = []
        for batch in batches:
            window.append(batch)
            if len(window) == self._window:
                yield from ((each, n == self._window) for n, each in enumerate(window, 1))
                window = []
        yield from ((each, n == len(window)) for n, each in enumerate(window, 1))

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted in the epoch so far, and what shares are told in."""
        return {**super().state_dict(), "reference": self._reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        super().load_state_dict(state)
        self._reference = state.get("reference")

    def _refer(self, parts: list[Part]) -> None:
        """Settle what shares are told in, and how terms are weighed: by the first batch."""
        apart = _count_apart(parts) or len(set(self.objective.summed)) > 1
        everywhere = self.processes.gather((float(parts[0][1]), apart))
        if self._reference is None:
            self._reference = everywhere[0][0] or 1.0
        self._sums = all(self.objective.summed)
        self._apart = any(apart for _, apart in everywhere)
        if self._apart and self._window > 1:
            message = (
                f"the terms of {self.objective.name} are means over different numbers of targets, "
                "or different weights, or sums: of several processes, and several batches an "
                "update, these can't be joined; use gradient_accumulation_steps=1"
            )
            raise RankError(message)

    def _add_gradients(self, batch: Any) -> None:
        self._counts = batch is not None
        taken = self._last = self._last if batch is None else batch
        parts = self._measured(taken)
        if not self._apart and _count_apart(parts):
            message = (
                f"the terms of {self.objective.name} counted alike in the first batch, but in this "
                f"one {', '.join(str(share) for _, share in parts)}; of several processes, begin "
                "with a batch in which they differ, or make one output of them"
            )
            raise RankError(message)
        total, part = self._weighed_apart(parts) if self._apart else self._weighed(parts)
        wants = float(self._failure is not None or self._accord.wanted)
        self._backward(total, wants, part)

    def _weighed(self, parts: list[Part]) -> tuple[Tensor, Any]:
        """Return the loss times this process' part of what it is a mean over, and that part."""
        share: Any
        value, share = parts[0] if self._counts else (parts[0][0], 0)
        if isinstance(share, Tensor):
            if share.device.type == "cpu":
                share = share.item()
            else:  # an integer would become float32
                share = share.to(torch.promote_types(value.dtype, torch.float32))
        assert self._reference is not None
        part = share / self._reference
        factor = float(self._counts) * self.processes.count if self._sums else part
        total = self.objective.total(parts)
        if isinstance(factor, float) and factor == 1.0:  # the most frequent case
            return total, part
        return total * factor, part

    def _weighed_apart(self, parts: list[Part]) -> tuple[Tensor, float]:
        """Return the same where each term is a mean over a number of its own, told beforehand."""
        count, counts = self.processes.count, float(self._counts)
        told = torch.stack([torch.as_tensor(share).to(parts[0][0]) for _, share in parts]) * counts
        totals = told.clone()
        distributed.all_reduce(totals)
        told = told / totals.clamp_min(torch.finfo(told.dtype).tiny)
        weighed: list[Part] = [
            (value * (counts if summed else part) * count, 1)
            for (value, _), part, summed in zip(parts, told, self.objective.summed, strict=True)
        ]
        return self.objective.total(weighed), 1.0

    def _measured(self, batch: Any) -> list[Part]:
        if self._norms is not None:
            self._norms.counts = self._counts
        with nullcontext() if self._norms is None else self._norms.applied():
            return self._forward(batch)

    def _settle(self) -> None:
        """Divide the gradients by what all processes counted, and meet where one wants to.

        Raises:
            NonFiniteError: The loss was not finite in one of them.
        """
        answer = self._answer()
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
        gradients = self._gradients()
        if isinstance(share, Tensor):
            share = share.clamp_min(torch.finfo(share.dtype).tiny)
        torch._foreach_div_(gradients, share)

    def _gradients(self) -> list[Tensor]:
        """Return what this process holds of the gradients."""
        return [p.grad for p in self.update.parameters if p.grad is not None]

    @property
    def _smallest_batch(self) -> int | None:
        return super()._smallest_batch if self._norms is None else None

    def _from_all(self, part: Any) -> list[Any]:
        return self._accord.meet(part=part)

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        if self._counts:
            super()._record(y_pred, y_true, weight, parts)

    def _tally(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        try:
            super()._tally(y_pred, y_true, weight, parts)
        except NonFiniteError as error:
            self._failure = error  # told to the others when they settle


class TellingStep(JointStep):
    """One whose processes tell each other what they count and want in a message of its own.

    That is one an update, beside those of the gradients.
    """

    def _begin(self, batch: Any) -> None:
        self._told: list[list[Any]] = []

    def _forward(self, batch: Any) -> list[Part]:
        parts = self._run(batch)
        if self._apart is None:
            self._refer(parts)
        return parts

    def _run(self, batch: Any) -> list[Part]:
        """Run the net and compare."""
        return self.measure(batch)

    def _note(self, total: Tensor, wants: float, part: Any) -> None:
        """Keep what is to be told."""
        self._told.append([wants, part])
        self._like = total

    def _answer(self) -> Tensor:
        dtype = torch.promote_types(self._like.dtype, torch.float32)
        answer = torch.zeros(2, dtype=dtype, device=self._like.device)
        for wants, part in self._told:
            answer[0] += wants
            answer[1] += part
        distributed.all_reduce(answer)
        return answer / self.processes.count


class Measured(nn.Module):
    """Net and loss as one module, which gives the terms of a batch's loss.

    Args:
        net: The net.
        losses: The loss' own module.
    """

    step: Any = None  # what measures a batch

    def __init__(self, net: nn.Module, losses: nn.Module) -> None:
        super().__init__()
        self.net, self.losses = net, losses

    def forward(self, batch: Any) -> Any:
        """Return the terms."""
        return self.step.measure(batch)


def _count_apart(parts: list[Part]) -> bool:
    """Say whether terms are means over numbers that differ, or may in another batch."""
    shares = [share for _, share in parts]
    if len(shares) == 1:
        return False
    return any(isinstance(share, Tensor) for share in shares) or len(set(shares)) > 1
