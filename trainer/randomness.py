"""Seeds and the state of random generators: a fit's seed determines all its random numbers."""

from __future__ import annotations

import hashlib
import operator
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .devices.accelerators import HOST
from .devices.generators import generator_states, saved_generator_states, set_generator_states
from .errors import NotBitExactWarning


def derive_seed(seed: int, *labels: int | str) -> int:
    """Return a seed in [0, 2**63) that depends only on `seed` and `labels`.

    Example:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
        True
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
        False
    """
    # `hash` would differ from process to process for text.
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_seed() -> int:
    """Draw a seed from torch's global generator, so that `torch.manual_seed` determines it."""
    return int(torch.empty((), dtype=torch.int64, device=HOST).random_().item())


def peek_seed() -> int:
    """Return the seed that `draw_seed` would draw, without changing the generator."""
    # A copy of the global generator at its current state draws the number.
    generator = torch.Generator(HOST).set_state(torch.get_rng_state())
    empty = torch.empty((), dtype=torch.int64, device=HOST)
    return int(empty.random_(generator=generator).item())


def seed_everything(seed: int = 42) -> int:
    """Seed Python's, NumPy's and torch's global generators (every device); return `seed`."""
    seed = operator.index(seed)  # an int of NumPy, too
    random.seed(seed)
    # NumPy takes seeds of 32 bits only.
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed


def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy, torch and its devices.

    It consists of tensors and plain values, which `torch.load(weights_only=True)` supports.

    Args:
        device: The device whose generator to include; None for all accelerators.
    """
    # The keys become int64, because older releases of torch have no uint32.
    algorithm, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    return {**state, "devices": generator_states(device)}


def set_random_state(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Restore a state of `random_state`.

    Warns with `NotBitExactWarning` about devices that this machine does not have.

    Args:
        state: The state.
        device: The device in use; it gets the state of the one that was in use. None restores the
            states of all accelerators by their numbers.
    """
    random.setstate(state["python"])
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    lost = set_generator_states(saved_generator_states(state, device), device)
    if lost:
        warnings.warn(
            f"random numbers that were drawn on {', '.join(lost)} do not continue: this machine "
            "has no such device",
            NotBitExactWarning,
            stacklevel=3,
        )


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Restore the global generators when the block ends."""
    state = random_state()
    try:
        yield
    finally:
        # The generators are restored after an error, too.
        set_random_state(state)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms if `wanted`, until the block ends.

    On CPUs all are. If an operation has no deterministic algorithm on a GPU, torch raises an error.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch requires it on GPUs
    # The debug mode distinguishes "warn" from "error"; the flag does not.
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
