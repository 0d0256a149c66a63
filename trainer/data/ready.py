"""Data that consists of batches already: a Dataset of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from .dataset import DatasetSource
from .rank_split import PassLength


class BatchDatasetSource(DatasetSource):
    """A Dataset whose items are batches, which may be shuffled as a whole.

    Its hook `on_epoch_end`, which Keras calls, is called after each pass.
    """

    @property
    def _collates(self) -> bool:
        # The dataset may use the memory of a batch again; workers send copies.
        return bool(self.worker_count)

    def refresh(self) -> None:
        """Ask the dataset for its length again: the number of batches."""
        super().refresh()
        self.pass_length = PassLength(self.order.samples, self.order.world)
        # How many samples there are is not known.
        self.samples = self.smallest_batch = None

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Yield the batches of a pass from batch `start` on."""
        yield from super().batches(pass_index, start, behind)
        hook = getattr(self.loader, "on_epoch_end", None)
        if callable(hook):
            hook()


class Ready:
    """Takes the only item of a list for a batch."""

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch."""
        return items[0]


def batch_dataset_source(
    dataset: Any, order: Any, name: str, floating: torch.dtype, workers: int | str
) -> BatchDatasetSource:
    """Return a source for a Dataset of batches; `order` has the number of them."""
    order = replace(order, batch_size=1)
    return BatchDatasetSource(dataset, order, name, floating, workers, Ready())
