"""Streams of samples, or of batches: an IterableDataset that a user passes without a loader."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import IterableDataset

from .collate import SampleCollate
from .loader import remaining
from .recognition import is_graph_batch, looks_like_batch, may_be_batch, warn_of_samples


class Stream:
    """Batches of an IterableDataset, which is asked for its iterator once in a pass.

    Its first item shows whether it yields samples, which are collated, or batches, which are not.

    Args:
        dataset: The dataset.
        batch_size: The number of samples in a batch; None if the items are batches.
        name: The name of the data, for messages.
        floating: The dtype for float64 of NumPy and Python.
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        batch_size: int | None,
        name: str,
        floating: torch.dtype,
    ) -> None:
        self.dataset, self._size, self._name = dataset, batch_size, name
        self._collate = SampleCollate(floating)
        self._told = batch_size is None
        self.read_to_end = False  # whether the last batch ended the items
        self.has_batches = batch_size is None

    @property
    def collates(self) -> bool:
        """Whether batches are made here, and not used again elsewhere."""
        return not self.has_batches

    def __len__(self) -> int:
        """Return the number of batches, if the dataset has a length.

        Raises:
            TypeError: It has none.
        """
        items = len(self.dataset)  # type: ignore[arg-type]
        return items if self.has_batches or self._size is None else -(-items // self._size)

    def __iter__(self) -> Iterator[Any]:
        """Return the batches of a pass."""
        # A dataset may be its own iterator, which starts again if it is asked for it.
        self.read_to_end = False
        items = remaining(iter(self.dataset))
        first = list(islice(items, 1))
        if first:
            self._look(first[0])
        return self._batches(first, items)

    def _batches(self, first: list[Any], items: Iterator[Any]) -> Iterator[Any]:
        every = chain(first, items)
        if self.has_batches or self._size is None:
            yield from every
            return
        while samples := list(islice(every, self._size)):
            self.read_to_end = len(samples) < self._size
            yield self._collate(samples)

    def _look(self, item: Any) -> None:
        """Decide what the items are, once in a fit, and say so if both are possible."""
        if self._told:
            return
        self._told = True
        self.has_batches = is_graph_batch(item) or looks_like_batch(item)
        if is_graph_batch(item):
            return
        if not self.has_batches:
            if may_be_batch(item):
                warn_of_samples(self._name)
            return
        warnings.warn(
            f"the items of {self._name} are taken for batches, because all parts of the first one "
            "have the same length; if they are samples, pass a DataLoader(dataset, batch_size), "
            "and if they are batches, batch_size=None does without this warning",
            stacklevel=2,
        )
