"""Batches that a resumed pass reads again, and whether they are those of the interrupted one."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

from fitorch.devices.accelerators import HOST
from fitorch.errors import NotBitExactWarning
from fitorch.randomness import random_state, set_random_state

from .digest import digest

Mark: TypeAlias = dict[str, Any] | str  # older checkpoints have the digest alone


def with_state(
    batches: Iterator[Any], *, wanted: bool
) -> Iterator[tuple[dict[str, Any] | None, Any]]:
    """Yield each batch with the random state of this process before it was read.

    Args:
        batches: The batches.
        wanted: Whether the state is needed; without it, it is None.
    """
    while True:
        before = random_state(HOST) if wanted else None
        try:
            batch = next(batches)
        # Within a generator, this exception would become a RuntimeError.
        except StopIteration:
            return
        yield before, batch


def take_mark(batch: Any, before: dict[str, Any] | None) -> Mark:
    """Return what identifies a batch: its digest, and the random state in which it was read."""
    return {"digest": digest([batch]), "random": before}


def skip(batches: Iterator[Any], count: int, mark: Mark | None) -> list[Any]:
    """Read batches again; return a list with the last one, which is empty if there is none.

    The last one is read with the random numbers of its mark, so that a reader that augments its
    samples makes the same batch of them. A net that draws, such as one with dropout, moved the
    generators between the batches of the interrupted pass.
    """
    random = mark["random"] if isinstance(mark, dict) else None
    if not count or random is None:
        return list(deque(islice(batches, count), maxlen=1))
    deque(islice(batches, count - 1), maxlen=0)
    set_random_state(random, HOST)
    return list(islice(batches, 1))


def check_mark(name: str, last: list[Any], mark: Mark | None) -> None:
    """Warn if reading a pass again gave another batch than before its interruption."""
    expected = mark["digest"] if isinstance(mark, dict) else mark
    if last and expected is not None and digest(last) != expected:
        warnings.warn(
            f"{name} gave other batches when it was read again up to the interruption, so "
            "some samples of the epoch may be trained on twice and others not at all; give its "
            "shuffling a seed, or pass a reader with state_dict and load_state_dict",
            NotBitExactWarning,
            stacklevel=2,
        )
