"""Buffer for small tensors of many batches, in one block of memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class BatchBuffer:
    """Copies of small CPU tensors, one per batch, side by side in memory.

    Small tensors that outlive their step lie between the large ones of that step and fragment the
    heap: each following step would get different memory, which is not in any cache. Large
    ones are not copied. On accelerators, which have pools for small tensors, each has a copy of its
    own: the net may use the memory of its output for the next batch.

    Args:
        capacity: The number of tensors in one block.
        max_elements: The number of elements up to which a tensor is copied.
    """

    def __init__(self, capacity: int, max_elements: int) -> None:
        self._capacity, self._max_elements = capacity, max_elements
        self._free: list[Tensor] = []

    def keep(self, part: Any) -> Any:
        """Return a copy of a tensor in the buffer, or the tensor itself if it does not fit."""
        # Subclasses of Tensor, and tensors with a graph, are kept as they are.
        if not isinstance(part, Tensor) or part.requires_grad or part.layout is not torch.strided:
            return part
        if not part.is_cpu:
            return part.clone()
        if type(part) is not Tensor:
            return part
        if not self._free:
            if part.numel() > self._max_elements:
                return part
            # All copies share one block, which stays in memory until the last of them is gone.
            self._free = [*part.new_empty((self._capacity, *part.shape)).unbind()]
        slot = self._free[-1]
        # The last batch of an epoch may have another shape.
        if slot.shape != part.shape or slot.dtype != part.dtype:
            return part
        return self._free.pop().copy_(part)

    def clear(self) -> None:
        """Start a new block of memory: earlier copies may still be in use."""
        self._free.clear()
