"""Warnings about iterators that are measured in parts: they cannot restart."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any


def warn_of_iterator(data: Any, name: str) -> None:
    """Warn if each validation on some batches of data continues after those of the last one.

    Args:
        data: What the user passes.
        name: Its name, such as "val_data".
    """
    if not isinstance(data, Iterator):
        return
    warnings.warn(
        f"{name} is an iterator: unless its __iter__ restarts it, each validation measures the "
        "batches after those of the last one, and epochs cannot be compared; pass a list of the "
        "batches, a DataLoader, or an object whose __iter__ returns a new iterator",
        stacklevel=2,
    )


def warn_of_started_generator(data: Any, name: str) -> None:
    """Warn if batches of a generator have been read before.

    Args:
        data: What the user passes.
        name: Its name, such as "val_data".
    """
    if not inspect.isgenerator(data) or inspect.getgeneratorstate(data) != inspect.GEN_SUSPENDED:
        return
    warnings.warn(
        f"{name} is a generator that has been read before: evaluate continues with its next batch; "
        "pass a new generator to measure the same batches again",
        stacklevel=2,
    )
