"""Seeds and random streams: everything random in a fit follows from its seed."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *labels: int | str) -> int:
    """Return a seed in [0, 2**63), a function of `seed` and `labels` alone.

    Example:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
        True
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
        False
    """
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_seed() -> int:
    """Draw a seed from torch's global generator, so that `torch.manual_seed` governs."""
    return int(torch.empty((), dtype=torch.int64).random_().item())


def peek_seed() -> int:
    """Return the seed that `draw_seed` would draw now, and draw nothing."""
    generator = torch.Generator().set_state(torch.get_rng_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def seed_everything(seed: int = 42) -> int:
    """Seed Python's, NumPy's and torch's global generators (every device); return `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed


def random_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy, torch and its devices.

    It holds tensors and plain values alone, which `torch.load(weights_only=True)` takes.
    """
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Put the global generators back at the end, as if nothing had been drawn."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Have torch use algorithms that give the same bits each time, where that is wanted.

    On CPUs they do anyway. Where an operation has none on a GPU, torch raises an error.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it on GPUs
    mode = torch.get_deterministic_debug_mode()
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark = before
