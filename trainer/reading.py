"""Errors in the user's data, told with the batch that was being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .errors import annotate


def reading(batches: Iterable[Any], name: str, where: str) -> Iterator[Any]:
    """Give `batches`; an error of theirs gets a note that says which batch of what it was."""
    iterator, number = iter(batches), 0
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            annotate(error, f"while reading {where}batch {number + 1} of {name}")
            raise
        yield batch
        number += 1
