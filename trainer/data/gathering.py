"""Gathering of batches from tensors by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST, is_host
from fitorch.devices.copies import pinned, sent
from fitorch.tree import map_tensors

from .sampling import IndexTransform


def gatherer(tensors: Any, *, pinned: bool = False) -> Callable[[Tensor], Any]:
    """Return a function that selects samples of `tensors` by index.

    Args:
        tensors: Nested tensors.
        pinned: Whether to use pinned memory, for asynchronous copies to a CUDA device.
    """
    pick = _pick_pinned if pinned else _pick
    if isinstance(tensors, (tuple, list)) and all(isinstance(item, Tensor) for item in tensors):
        flat = tuple(tensors)
        return lambda index: [pick(tensor, 0, index) for tensor in flat]
    return lambda index: map_tensors(lambda tensor: pick(tensor, 0, index), tensors)


_pick = torch.index_select


def _pick_pinned(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    if tensor.requires_grad:  # autograd does not support out=
        return torch.index_select(tensor, dim, index)
    # `index_select` cannot allocate pinned memory, so it writes into a buffer.
    shape = (len(index), *tensor.shape[1:])
    out = torch.empty(shape, dtype=tensor.dtype, device=HOST, pin_memory=True)
    return torch.index_select(tensor, dim, index, out=out)


def mover(device: torch.device) -> IndexTransform | None:
    """Return a function that moves the indices of many batches to `device`, None for the CPU."""
    return None if is_host(device) else lambda block: sent(pinned(block, device), device)
