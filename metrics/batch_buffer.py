"""Small tensors of many batches in one piece of memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class BatchBuffer:
    """Keeps a copy of a small tensor of each batch, side by side in memory.

    Kept where they came to lie, between the large tensors of their steps, they would break up the
    memory that the next steps take: so each step would get other memory, which no cache holds yet.
    On accelerators, whose allocators keep small tensors apart, and for large ones, nothing is
    copied.

    Args:
        capacity: How many tensors it is made for.
        max_elements: How many numbers a tensor may have that is copied.
    """

    def __init__(self, capacity: int, max_elements: int) -> None:
        self._capacity, self._max_elements = capacity, max_elements
        self._free: list[Tensor] = []

    def keep(self, part: Any) -> Any:
        """Return a copy of a tensor that lies beside the others; what can't lie there, as it is."""
        if type(part) is not Tensor or not part.is_cpu or part.requires_grad:
            return part
        if part.layout is not torch.strided:
            return part
        if not self._free:
            if part.numel() > self._max_elements:
                return part
            self._free = [*part.new_empty((self._capacity, *part.shape)).unbind()]
        place = self._free[-1]
        if place.shape != part.shape or place.dtype != part.dtype:
            return part
        return self._free.pop().copy_(part)

    def clear(self) -> None:
        """Begin anew, in other memory: somebody may look at what was kept."""
        self._free.clear()
