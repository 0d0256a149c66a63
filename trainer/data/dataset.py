"""Batches out of a map-style dataset, whose samples must be asked for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from fitorch.internals.torch import iterates_as_torch
from fitorch.randomness import derive_seed
from fitorch.tree import byte_count, map_tensors

from .in_memory import smallest_batch
from .indices import LoaderIndices
from .loader import LoaderSource, length
from .rank_split import ALONE, PassLength, RankShard
from .rng_state import Held, owners_of
from .sampling import Order
from .workers import (
    Pace,
    WorkerPool,
    held_by,
    loader_options,
    may_share,
    state_differs,
    usable_cpus,
)

Request = tuple[int, list[Any]]  # the seed of a batch and the numbers of its samples


class Reader:
    """Reads a batch of a dataset, here or in a worker process.

    A batch has random numbers of its own: Python's, NumPy's and torch's global generators begin
    with its seed, and are put back. So it does not matter who reads it, and when.

    Args:
        dataset: Has `__getitem__`, or `__getitems__` for many samples at once.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._many = getattr(dataset, "__getitems__", None) is not None
        self._numpy = np.random.MT19937(0)

    def __getitems__(self, request: Request) -> list[Any]:
        seed, samples = request
        own = torch.default_generator
        before = random.getstate(), mtrand.get_bit_generator(), own.get_state()
        mtrand.set_bit_generator(self._numpy)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        own.manual_seed(seed)
        try:
            return self._read(samples)
        finally:
            random.setstate(before[0])
            mtrand.set_bit_generator(before[1])
            own.set_state(before[2])

    def batch(self, request: Request) -> Any:
        """Return a whole batch."""
        return default_collate(self.__getitems__(request))

    def _read(self, samples: list[Any]) -> list[Any]:
        if self._many:
            many: list[Any] = self.dataset.__getitems__(samples)
            return many
        return [self.dataset[sample] for sample in samples]


class SampledSource(LoaderSource):
    """Batches of a map-style dataset, each read with random numbers of its own.

    Args:
        dataset: Has `__getitem__`, or `__getitems__` for many samples at once.
        name: What to call it in an error.
        seed: What the random numbers of reading follow from.
        floating: What float64 of NumPy and pandas becomes, where batches are not tensors.
        settings: How worker processes read, as DataLoader takes it.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        seed: int,
        floating: torch.dtype = torch.float32,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset, name, floating, seed=seed)
        self._rank = 0  # of this process among those that share the samples
        self._collates = True
        self._reader = Reader(dataset)
        self._pool = WorkerPool(self._reader, settings or {})

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    @property
    def worker_count(self) -> int:
        """How many processes read: 0 as long as this one does."""
        return self._pool.count

    @property
    def stateful(self) -> None:
        """Who knows where in a pass it is: nobody needs to."""
        return None

    @property
    def order_owners(self) -> list[Any]:
        """Who decides the order beside the seed: nobody."""
        return []

    @property
    def reading_owners(self) -> list[Any]:
        """Who draws random numbers while samples are read: the dataset's own generators."""
        return [Held(self.loader)]

    def _processes(self, batches: Any) -> Iterable[Any]:
        return self._pool.processes

    def _asked(
        self, samples: Iterable[list[Any]], pass_index: int, start: int
    ) -> Iterator[Request]:
        """Ask for each batch of a pass, with a seed that depends on nothing but its place."""
        own = [self._rank] if self._rank else []
        labels: list[int | str] = ["read", self.name, pass_index, *own]
        return (
            (derive_seed(self._seed, *labels, position), batch)
            for position, batch in zip(count(start), samples, strict=False)
        )

    def _read_by_pool(self, requests: Iterator[Request]) -> Iterator[Any]:
        for batch in self._pool.read(requests):
            # As reading here does: NumPy's global generator forgets its spare normal number.
            mtrand.set_bit_generator(mtrand.get_bit_generator())
            yield batch


class UserLoaderSource(SampledSource):
    """A user's DataLoader over a map-style dataset: its samplers, collate function and workers.

    Another loader, made with its settings, reads for it, so that each batch gets random numbers of
    its own: then it does not matter who read what before it.

    Args:
        loader: The loader.
        name: What to call it in an error.
        seed: What the random numbers of reading follow from.
        floating: What float64 of NumPy and pandas becomes, where batches are not tensors.
        share: The part that this process gets.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        name: str,
        seed: int,
        floating: torch.dtype = torch.float32,
        share: RankShard = ALONE,
    ) -> None:
        super().__init__(loader.dataset, name, seed, floating, loader_options(loader))
        self._user_loader = loader
        self._rank = share.rank
        self._indices = LoaderIndices(loader, share=share)
        self.pass_length = PassLength(length(loader), share.world)
        self.steps = self.pass_length.rounds()
        self.smallest_batch = share.smallest(smallest_batch(loader))
        self.samples = length(loader.dataset)
        self._pool.count = loader.num_workers

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on, without reading those before."""
        lists = self._indices.lists(pass_index, start, behind)  # draws what decides the order
        requests = self._asked(lists, pass_index, start)
        return self._placed(self._read_by_pool(requests))

    @property
    def order_owners(self) -> list[Any]:
        """Who decides the order: the samplers, and what the loader draws beside them."""
        return [*owners_of(self._user_loader), self._indices]


def recognize_samples(loader: DataLoader[Any]) -> bool:
    """Say whether a loader is a DataLoader that asks a map-style dataset for batches of samples.

    Classes made of DataLoader will do where they iterate as it does.
    """
    sampled = loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)
    return iterates_as_torch(loader) and sampled


class DatasetSource(SampledSource):
    """Batches of a map-style dataset in an order of our own.

    It reads in this process, or in worker processes that stay until `close`; the batches are the
    same. With "auto" it begins without workers and times itself. Once it has spent a second on
    reading, it starts as many workers as keep up with the net, at most as many as there are CPUs,
    where that pays and is safe: see `Pace.workers` and `may_share`.

    Args:
        dataset: Has `__getitem__`, or `__getitems__` for many samples at once, and a length.
        order: The order of the samples.
        name: What to call the dataset in an error.
        floating: What float64 of NumPy and pandas becomes, where batches are not tensors.
        workers: How many processes read, or "auto".
    """

    def __init__(
        self,
        dataset: Any,
        order: Order,
        name: str,
        floating: torch.dtype = torch.float32,
        workers: int | str = 0,
    ) -> None:
        super().__init__(dataset, name, order.seed, floating)
        self.order, self._rank = order, order.rank
        self.pass_length = PassLength(order.samples, order.per_round)
        self.steps = len(order)
        self.samples, self.smallest_batch = order.samples, order.smallest_batch
        self._pool.count = workers if isinstance(workers, int) else 0
        self._undecided = workers == "auto"
        self._pace = Pace()

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on, without reading those before."""
        requests = self._requests(pass_index, start, behind)
        if self._pool.count:
            return self._placed(self._read_by_pool(requests))
        return self._placed(self._read(requests, pass_index, start, behind))

    def to(self, device: torch.device) -> DatasetSource:
        """Move each batch to `device`; on the way it is pinned for CUDA."""
        super().to(device)
        self._pool.pinned = device.type == "cuda"
        return self

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return the sample numbers of a batch of a pass."""
        samples = next(self.order.batches(pass_index, position), torch.tensor([]))
        return samples.tolist()

    def _requests(self, pass_index: int, start: int, behind: int) -> Iterator[Request]:
        samples = map(Tensor.tolist, self.order.batches(pass_index, start, behind=behind))
        return self._asked(samples, pass_index, start)

    def _read(
        self, requests: Iterator[Request], pass_index: int, start: int, behind: int
    ) -> Iterator[Any]:
        """Read in this process, until workers are worth their while."""
        for position, request in enumerate(requests, start):
            held = held_by(self.loader) if self._undecided and self._pace.due else None
            began = perf_counter()
            batch = self._reader.batch(request)
            read = perf_counter()
            yield map_tensors(Tensor.pin_memory, batch) if self._pool.pinned else batch
            self._pace.add(read - began, perf_counter() - read)
            if held is not None:
                self._decide(batch, quiet=not state_differs(held, held_by(self.loader)))
            if self._pool.count:
                rest = self._requests(pass_index, position + 1, behind)
                yield from self._read_by_pool(rest)
                return

    def _decide(self, batch: Any, *, quiet: bool) -> None:
        """Settle how many workers there will be; where none would pay, ask again later."""
        threads = torch.get_num_threads() if self._device is None else 1
        wanted = self._pace.workers(byte_count(batch), usable_cpus(), threads)
        self._pace = Pace()
        if not wanted:
            return
        self._undecided = False
        if quiet and may_share(self.loader, batch, wanted):
            self._pool.count = wanted
