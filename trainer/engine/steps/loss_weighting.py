"""Weight the loss of each process by the samples or weights that it is a mean over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from fitorch.devices.accelerators import is_host
from fitorch.distributed.processes import Processes
from fitorch.errors import RankError
from fitorch.losses.objective import Objective
from fitorch.losses.terms import TermValue

from .measurement import check_answers


class LossWeighting:
    """Weights losses so that their gradients, added up, are those of one batch of all processes.

    A mean counts by the samples (or weights) that it is over, so unequal batches count as what
    they are. Gradients are divided by the counts of all processes afterwards.

    Args:
        objective: The loss of a batch.
        processes: The processes that train together.
        window: Batches of an update.
    """

    def __init__(self, objective: Objective, processes: Processes, window: int) -> None:
        self._objective, self._processes, self._window = objective, processes, window
        # The unit of counts, so that most of them are 1 and no multiplication is needed.
        self.reference: float | None = None
        self._differ: bool | None = None  # whether terms are means over different numbers

    @property
    def sums(self) -> bool:
        """Whether all losses are sums, which the first batch may have shown."""
        return all(self._objective.summed)

    def __call__(self, parts: list[TermValue], *, counts: bool) -> tuple[Tensor, float | Tensor]:
        """Return the weighted loss of a batch, and what it counts.

        Args:
            parts: The terms of its loss.
            counts: Whether the batch counts; one that stands in does not.

        Raises:
            RankError: The terms count differently, which the first batch did not show.
        """
        if self._differ is None:
            self._agree(parts)
        elif not self._differ and count_differently(parts):
            message = (
                f"the terms of {self._objective.name} are means over equal numbers in the first "
                f"batch, but over {', '.join(str(share) for _, share in parts)} in this one; with "
                "several processes, start with a batch in which they differ, or use one output"
            )
            raise RankError(message)
        if self._differ:
            return self._weighted_by_term(parts, float(counts)), 1.0
        return self._weighted(parts, counts=counts)

    def _agree(self, parts: list[TermValue]) -> None:
        """Agree with the other processes on the unit and on how terms are weighted."""
        objective = self._objective
        # This is a collective, once per fit: all processes wait for the first batch of each other.
        differ = count_differently(parts) or len(set(objective.summed)) > 1
        gathered = self._processes.gather((float(parts[0][1]), differ, objective.answers))
        check_answers(objective, [answers for *_, answers in gathered])
        # A resumed fit keeps the unit from its checkpoint: with another unit, the divisions would
        # round differently.
        if self.reference is None:
            self.reference = gathered[0][0] or 1.0  # of rank 0, the same in all processes
        self._differ = any(differ for _, differ, _ in gathered)
        if self._differ and self._window > 1:
            message = (
                f"the terms of {objective.name} are means over different numbers of targets, "
                "or different weights, or sums, which cannot be accumulated over several batches "
                "in several processes; use gradient_accumulation_steps=1"
            )
            raise RankError(message)

    def _weighted(self, parts: list[TermValue], *, counts: bool) -> tuple[Tensor, float | Tensor]:
        value, share = parts[0][0], (parts[0][1] if counts else 0)
        count: float | Tensor = share
        if isinstance(share, Tensor):
            if is_host(share):
                # On the CPU nothing waits.
                count = share.item()
            else:  # stays on the device; an integer would become float32 in a division
                count = share.to(torch.promote_types(value.dtype, torch.float32))
        assert self.reference is not None
        count = count / self.reference
        # DDP and FSDP average gradients over the processes; a sum is multiplied by their number to
        # undo that.
        factor = float(counts) * self._processes.world_size if self.sums else count
        total = self._objective.total(parts)
        if isinstance(factor, float) and factor == 1.0:  # the most frequent case
            return total, count
        return total * factor, count

    def _weighted_by_term(self, parts: list[TermValue], counts: float) -> Tensor:
        """Return the loss with each term weighted by its own count, exchanged beforehand."""
        like, processes = parts[0][0], self._processes
        # A collective needs one dtype for all, and fp16 cannot hold counts. Numbers are written on
        # the device, because a copy of them would wait.
        dtype = torch.promote_types(like.dtype, torch.float32)
        shares = [
            share.to(like.device, dtype)
            if isinstance(share, Tensor)
            else torch.full((), share, dtype=dtype, device=like.device)
            for _, share in parts
        ]
        local = torch.stack(shares) * counts
        totals = local.clone()
        # This is a second collective in each step, in which the processes wait for each other: one
        # division afterwards cannot weight terms that count differently.
        distributed.all_reduce(totals)
        fractions = local / totals.clamp_min(torch.finfo(local.dtype).tiny)
        weighted: list[TermValue] = [
            # The factor undoes the average over processes, as above.
            (value * (counts if summed else fraction) * processes.world_size, 1)
            for (value, _), fraction, summed in zip(
                parts, fractions, self._objective.summed, strict=True
            )
        ]
        return self._objective.total(weighted)


def count_differently(parts: Sequence[TermValue]) -> bool:
    """Return whether terms are means over numbers that differ, or may differ in another batch."""
    shares = [share for _, share in parts]
    if len(shares) == 1:
        return False
    return any(isinstance(share, Tensor) for share in shares) or len(set(shares)) > 1
