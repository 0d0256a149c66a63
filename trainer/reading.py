"""Errors in the user's data, told with the batch that was being read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import annotate


def reading(
    batches: Iterable[Any], name: str, where: str, samples_in: Callable[[int], list[int]]
) -> Iterator[Any]:
    """Give `batches`; an error of theirs gets a note that says which batch of what it was.

    Args:
        batches: The batches.
        name: What the data is called.
        where: What to put before "batch 3" in the note.
        samples_in: Gives the sample numbers of the batch after so many, as far as known.
    """
    iterator, number = iter(batches), 0
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            samples = samples_in(number)
            one_of = f", one of the samples {samples}" if samples else ""
            annotate(error, f"while reading {where}batch {number + 1} of {name}{one_of}")
            raise
        yield batch
        number += 1
