"""The batches of an epoch as the user's own `EpochRunner` takes them.

`KerasModel.EpochRunner = EpochRunner`, a class `EpochRunner(step_runner, quiet=False)` beside a
`StepRunner`. Called with the batches of an epoch it goes over them and returns the epoch's values
by name. To callbacks an epoch is then one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class EpochBatches:
    """The batches of an epoch, which can be iterated over once.

    Args:
        batches: The batches.
        size: Their number, None if it is not known.
    """

    def __init__(self, batches: Iterator[Any], size: int | None) -> None:
        self._batches = batches
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return self._batches

    def __len__(self) -> int:
        if self.size is None:
            message = "how many batches there are is known at the end alone"
            raise TypeError(message)
        return self.size
