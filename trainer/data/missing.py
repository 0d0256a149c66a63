"""NaN in targets of NumPy, which a loss of torch or fitorch cannot leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fitorch.errors import DataError

from .tables import counted


def check_targets(data: Any, name: str, loss: str) -> None:
    """Check that the targets of `(x, y)`, or the labels of a mapping, have no NaN.

    Arrays of NumPy are looked at once, and those on disk not at all. Tables are checked where they
    are converted; NaN in a tensor is found by the loss, which names the batch and its samples.

    Args:
        data: What the user passes.
        name: The name of the argument, for messages.
        loss: The name of the loss.

    Raises:
        DataError: A target is NaN; the message counts them.
    """
    for what, part in _targets(data, f"{name}'s y"):
        if not _has_nan(part):
            continue
        message = (
            f"{what} has NaN: {counted(np.isnan(part))}; {loss} would be NaN or wrong. Fill or "
            "leave out these samples (a sample_weight of 0 does not suffice), or pass a loss "
            "function that does so"
        )
        raise DataError(message)


def _targets(data: Any, what: str) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of the targets in memory with their names."""
    if isinstance(data, Mapping):
        yield from _arrays(data.get("labels"), what)
    elif isinstance(data, tuple) and len(data) in (2, 3):
        yield from _arrays(data[1], what)


def _arrays(value: Any, what: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _arrays(part, f"{what}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for number, part in enumerate(value):
            yield from _arrays(part, f"{what}[{number}]")
    elif type(value) is np.ndarray and not _is_on_disk(value):
        yield what, value


def _is_on_disk(array: Any) -> bool:
    """Return whether an array is mapped from a file."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    # Without a base, the array owns its memory.
    return isinstance(array, np.memmap)


def _has_nan(part: Any) -> bool:
    # The least of some numbers is NaN if one of them is; no second array is needed.
    return bool(part.dtype.kind == "f" and part.size and np.isnan(np.min(part)))
