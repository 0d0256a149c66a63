"""A source over arrays on disk, which are read whole batches at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

import numpy as np

from .collate import Collate
from .dataset import DatasetSource
from .sample_reader import Request, SampleReader


class ColumnReader(SampleReader):
    """Reads a batch of `LazyColumns`, without random numbers of its own: none are drawn for it."""

    def batch(self, request: Request) -> Any:
        """Return a batch."""
        return self.dataset.read(request[1])


class ColumnSource(DatasetSource):
    """Batches of `LazyColumns` whose arrays are read by libraries that draw no random numbers.

    A step that reads a batch of a file takes a few hundred microseconds: a twentieth of it would be
    seeds and lists of numbers.
    """

    def _make_reader(self, dataset: Any, collate: Collate) -> SampleReader:
        return ColumnReader(dataset, collate)

    def _requests(self, pass_index: int, start: int, behind: int) -> Iterator[Request]:
        rows = self.order.batches(pass_index, start, behind=behind)
        return zip(repeat(0), (part.numpy() for part in rows), strict=False)

    def _with_seeds(
        self, samples: Iterable[list[Any]], pass_index: int, start: int
    ) -> Iterator[Request]:
        return ((0, np.asarray(numbers)) for numbers in samples)

    def _read_by_pool(self, requests: Iterator[Request]) -> Iterator[Any]:
        # Reading in this process leaves the generators alone, and so do workers.
        return self._pool.read(requests)
