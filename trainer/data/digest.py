"""Digests of batches: whether reading again, or another process, gave the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.devices.accelerators import is_host
from fitorch.tree import fields_of, is_record

_ELEMENTS = 64  # at each end of an array


def digest(batches: Iterable[Any], *, waits: bool = False) -> str:
    """Return a digest of some batches: of the shapes and both ends of their arrays, and of texts.

    Args:
        batches: The batches.
        waits: Whether to read arrays on a device, which waits; otherwise their shapes count alone.
    """
    total = hashlib.blake2b(digest_size=16)
    for batch in batches:
        for leaf in _leaves(batch):
            total.update(_content(leaf, waits))
    return total.hexdigest()


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield the tensors, arrays and texts in a batch."""
    if isinstance(tree, (Tensor, np.ndarray, str)):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _leaves(value)
    elif is_record(tree):
        yield from _leaves(fields_of(tree))


def _content(leaf: Any, waits: bool) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, Tensor) and leaf.is_nested:
        return f"{leaf.dtype}{leaf.size(0)}".encode()
    facts = f"{leaf.dtype}{tuple(leaf.shape)}".encode()
    if isinstance(leaf, Tensor):
        if leaf.layout is not torch.strided or not (waits or is_host(leaf)):
            return facts
        flat = leaf.detach().reshape(-1)
        ends = torch.cat([flat[:_ELEMENTS], flat[-_ELEMENTS:]]).resolve_conj().resolve_neg().cpu()
        return facts + ends.view(torch.uint8).numpy().tobytes()
    values = leaf.reshape(-1)
    both = np.concatenate([values[:_ELEMENTS], values[-_ELEMENTS:]])
    # The bytes of an array of objects are their addresses.
    return facts + (repr(both.tolist()).encode() if both.dtype.hasobject else both.tobytes())
