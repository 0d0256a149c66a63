"""Digests of batches: whether reading again, or another process, gave the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from fitorch.devices.accelerators import is_host
from fitorch.tree import map_leaves

_ELEMENTS = 64  # at each end of an array


def digest(batches: Iterable[Any]) -> str:
    """Return a digest of some batches: of the shapes and both ends of their arrays, and of texts.

    Arrays on a device count by their shapes alone, because reading them would wait.
    """
    total = hashlib.blake2b(digest_size=16)
    for batch in batches:
        map_leaves(lambda leaf: total.update(_content(leaf)), batch, (Tensor, np.ndarray, str))
    return total.hexdigest()


def _content(leaf: Any) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    facts = f"{leaf.dtype}{tuple(leaf.shape)}".encode()
    if isinstance(leaf, Tensor):
        if not is_host(leaf) or leaf.is_sparse or leaf.is_nested:
            return facts
        leaf = leaf.detach().reshape(-1)
        ends = [part.contiguous().float().numpy() for part in (leaf[:_ELEMENTS], leaf[-_ELEMENTS:])]
    else:
        flat = np.asarray(leaf).reshape(-1)
        ends = [flat[:_ELEMENTS], flat[-_ELEMENTS:]]
    return facts + b"".join(np.ascontiguousarray(end).tobytes() for end in ends)
