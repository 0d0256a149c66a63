"""Windows: the batches that make one update together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def windows(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` batches; the last one may be shorter.

    A window is read completely before its first batch is trained on, because how much a batch
    counts depends on the others.
    """
    window: list[Any] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
