"""The batches of an epoch in the form that the user's `EpochRunner` takes.

`KerasModel.EpochRunner` is a class `EpochRunner(step_runner, quiet=False)`, set together with a
`StepRunner`. It is called with the batches of an epoch and returns the values of the epoch by name.
Callbacks see such an epoch as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class EpochBatches:
    """The batches of an epoch, for a single iteration.

    Args:
        batches: The batches.
        size: The number of batches, None if it is not known.
    """

    def __init__(self, batches: Iterator[Any], size: int | None) -> None:
        self._batches = batches
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return self._batches

    def __len__(self) -> int:
        if self.size is None:
            message = "the number of batches is not known before the end; pass steps_per_epoch"
            raise TypeError(message)
        return self.size
