"""Exchange the requests and counts of an update in a separate collective."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


class UpdateTotals:
    """Collects requests and counts of an update's batches, and averages them over the processes.

    Args:
        world_size: The number of processes.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._added: list[tuple[float, float | Tensor]] = []
        self._like: Tensor

    def reset(self) -> None:
        """Start a new update."""
        self._added = []

    def add(self, loss: Tensor, request: float, count: float | Tensor) -> None:
        """Add what a batch requests and counts; `loss` gives device and type."""
        self._added.append((request, count))
        self._like = loss

    def averaged(self) -> Tensor:
        """Return the means over processes, of shape (2,); all processes must call this."""
        dtype = torch.promote_types(self._like.dtype, torch.float32)  # fp16 cannot hold counts
        totals = torch.zeros(2, dtype=dtype, device=self._like.device)
        for request, count in self._added:
            totals[0] += request
            totals[1] += count
        # The processes wait for each other, once per update.
        distributed.all_reduce(totals)
        return totals / self._world_size
