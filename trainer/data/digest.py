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


def digest(batches: Iterable[Any]) -> str:
    """Return a digest of some batches: of the shapes and both ends of their arrays, and of texts.

    Arrays on a device count by their shapes alone, because reading them would wait.
    """
    total = hashlib.blake2b(digest_size=16)
    for batch in batches:
        for leaf in _leaves(batch):
            total.update(_content(leaf))
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


def _content(leaf: Any) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, Tensor) and leaf.is_nested:
        return f"{leaf.dtype}{leaf.size(0)}".encode()
    facts = f"{leaf.dtype}{tuple(leaf.shape)}".encode()
    if isinstance(leaf, Tensor):
        if not is_host(leaf) or leaf.layout is not torch.strided:
            return facts
        leaf = leaf.detach().reshape(-1)
        ends = [part.contiguous().float().numpy() for part in (leaf[:_ELEMENTS], leaf[-_ELEMENTS:])]
    else:
        flat = np.asarray(leaf).reshape(-1)
        ends = [flat[:_ELEMENTS], flat[-_ELEMENTS:]]
    return facts + b"".join(np.ascontiguousarray(end).tobytes() for end in ends)
