"""Sources over map-style datasets, which are read sample by sample, here or in workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from time import perf_counter
from typing import Any

import torch
from numpy.random import mtrand
from torch import Tensor

from fitorch.devices.accelerators import HOST
from fitorch.devices.capabilities import pins
from fitorch.devices.copies import pinned
from fitorch.randomness import derive_seed
from fitorch.tree import byte_count, map_tensors

from .collate import Collate, SampleCollate
from .loader import LoaderSource
from .pace import Pace
from .rank_split import PassLength
from .recognition import are_samples_like_batches, warn_of_samples
from .rng_state import GeneratorHolder, holders_of, undisturbed_owners
from .sample_reader import Request, SampleReader
from .sampling import Order
from .workers import (
    WorkerPool,
    attributes_of,
    can_use_workers,
    state_differs,
    usable_cpus,
)


class SampledSource(LoaderSource):
    """Base class of sources over map-style datasets, in which each batch has its own seed.

    Args:
        dataset: A dataset with `__getitem__`, or `__getitems__` for many samples at once.
        name: The name of the data, for messages.
        seed: The seed from which the seeds of the batches are derived.
        floating: The dtype for float64 of NumPy and pandas, if batches are not tensors.
        settings: Arguments of DataLoader for the worker processes.
        collate: Makes a batch of samples; None is `SampleCollate`.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        seed: int,
        floating: torch.dtype = torch.float32,
        settings: Mapping[str, Any] | None = None,
        collate: Collate | None = None,
    ) -> None:
        super().__init__(dataset, name, floating, seed=seed)
        self._rank = 0  # of this process
        self._opened = 0, 0, 0  # pass, start and `behind` of the last `batches`
        self._reader = self._make_reader(dataset, collate or SampleCollate(floating))
        self._pool = WorkerPool(self._reader, settings or {})

    def _make_reader(self, dataset: Any, collate: Collate) -> SampleReader:
        return SampleReader(dataset, collate)

    @property
    def _collates(self) -> bool:
        return True

    def mark(self) -> None:
        """None: batches are read by the numbers of their samples."""
        return

    def last_skipped(self) -> Any:
        """Return the last batch of this process that a resumed pass has skipped, or None.

        It is read now, in this process.
        """
        pass_index, start, behind = self._opened
        if not start and not behind:
            return None
        samples = self._numbers_before(pass_index, start, behind)
        request = next(self._with_seeds([samples], pass_index, max(start - 1, 0)))
        with undisturbed_owners(self.reading_owners):
            return next(self._iterate(iter([self._reader.batch(request)])))

    def _numbers_before(self, pass_index: int, start: int, behind: int) -> list[Any]:
        """Return the sample numbers of this process in the batch before `start`."""
        raise NotImplementedError

    @property
    def exhausted(self) -> bool:
        """False: the position determines the rest of a pass."""
        return False

    def verify(self) -> None:
        """Do nothing: each process reads the samples of its own batches."""

    def first_batch(self) -> Any:
        """Return the first batch of a pass, None if worker processes would read it."""
        if self.worker_count:
            return None
        with undisturbed_owners([*self.order_owners, *self.reading_owners]):
            batches = self.batches(0)
            return next(batches)

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    @property
    def worker_count(self) -> int:
        """The number of worker processes; 0 if this process reads."""
        return self._pool.count

    @property
    def stateful(self) -> None:
        """None: the position in a pass does not depend on state."""
        return None

    @property
    def order_owners(self) -> list[Any]:
        """Objects with state that determines the order: none, apart from the seed."""
        return []

    @property
    def reading_owners(self) -> list[Any]:
        """Objects from which reading draws random numbers: generators of dataset and collate."""
        return [GeneratorHolder(self.loader, self._changes), *holders_of(self._reader.collate)]

    def _processes(self, batches: Iterator[Any]) -> Iterable[Any]:
        return self._pool.processes

    def _with_seeds(
        self, samples: Iterable[list[Any]], pass_index: int, start: int
    ) -> Iterator[Request]:
        """Return the batches of a pass with seeds that depend on their position alone."""
        # Rank 0 has the seeds of a single process.
        rank = [self._rank] if self._rank else []
        labels: list[int | str] = ["read", self.name, pass_index, *rank]
        return (
            (derive_seed(self._seed, *labels, position), batch)
            for position, batch in zip(count(start), samples, strict=False)
        )

    def _read_by_pool(self, requests: Iterator[Request]) -> Iterator[Any]:
        for batch in self._pool.read(requests):
            # Reading in this process discards NumPy's cached normal number; so must this branch,
            # for the same bits.
            mtrand.set_bit_generator(mtrand.get_bit_generator())
            yield batch


class DatasetSource(SampledSource):
    """Batches of a map-style dataset in the order of an `Order`.

    The source reads in this process, or in worker processes that run until `close`; the batches
    have the same bits. With "auto", it starts without workers and measures the time for reading.
    After a second of reading, it starts as many workers as keep up with the net, if they are faster
    and safe: see `Pace.workers` and `can_use_workers`.

    Args:
        dataset: A dataset with a length and `__getitem__`, or `__getitems__` for many samples.
        order: The order of the samples.
        name: The name of the data, for messages.
        floating: The dtype for float64 of NumPy and pandas, if batches are not tensors.
        workers: The number of worker processes, or "auto".
        collate: Makes a batch of samples; None is `SampleCollate`.
    """

    def __init__(
        self,
        dataset: Any,
        order: Order,
        name: str,
        floating: torch.dtype = torch.float32,
        workers: int | str = 0,
        collate: Collate | None = None,
    ) -> None:
        super().__init__(dataset, name, order.seed, floating, collate=collate)
        self.order, self._rank = order, order.rank
        self.refresh()
        self._pool.count = workers if isinstance(workers, int) else 0
        self._takes_samples = collate is None  # the items may be batches all the same
        self._undecided = workers == "auto"
        self._pace = Pace()

    def refresh(self) -> None:
        """Ask the dataset for its length again."""
        samples = len(self._reader.dataset)
        if samples != self.order.samples:
            self.order = replace(self.order, samples=samples)
        self.pass_length = PassLength(samples, self.order.per_round)
        self.steps, self.samples = len(self.order), samples
        self.smallest_batch = self.order.smallest_batch

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Return the batches of a pass from batch `start` on, without reading earlier ones."""
        self._opened = pass_index, start, behind
        requests = self._requests(pass_index, start, behind)
        if self._pool.count:
            return self._iterate(self._read_by_pool(requests))
        return self._iterate(self._read(requests, pass_index, start, behind))

    def to(self, device: torch.device, *, resident: bool = True) -> DatasetSource:
        """Send each batch to `device`, from pinned memory if the device has that."""
        super().to(device)
        self._pool.pinned = pins(device)
        return self

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return the sample numbers of a batch of a pass."""
        samples = next(self.order.batches(pass_index, position), torch.empty(0, device=HOST))
        return samples.tolist()

    def _numbers_before(self, pass_index: int, start: int, behind: int) -> list[Any]:
        return self.order.before(pass_index, start, behind).tolist()

    def _requests(self, pass_index: int, start: int, behind: int) -> Iterator[Request]:
        # This is on the CPU; datasets expect Python numbers.
        samples = map(Tensor.tolist, self.order.batches(pass_index, start, behind=behind))
        return self._with_seeds(samples, pass_index, start)

    def _read(
        self, requests: Iterator[Request], pass_index: int, start: int, behind: int
    ) -> Iterator[Any]:
        """Yield batches read in this process, and then by workers if these are faster."""
        for position, request in enumerate(requests, start):
            # If reading changes the dataset, each worker would change a copy of its own.
            attributes = attributes_of(self.loader) if self._undecided and self._pace.due else None
            began = perf_counter()
            batch = self._reader.batch(request)
            read = perf_counter()
            yield batch if self._device is None else map_tensors(self._pinned, batch)
            # The time until the next batch is requested is that of the training step.
            self._pace.add(read - began, perf_counter() - read)
            if attributes is not None:
                self._decide(batch, quiet=not state_differs(attributes, attributes_of(self.loader)))
            if self._pool.count:
                # The order is a function of seed, pass and position, so workers continue at any
                # batch.
                rest = self._requests(pass_index, position + 1, behind)
                yield from self._read_by_pool(rest)
                return

    def _converted(self, first: Any, others: Iterator[Any]) -> Iterable[Any]:
        # Once in a fit; batches of a DataLoader, or of batch_size=None, are what the user says.
        if self._takes_samples and are_samples_like_batches(first):
            warn_of_samples(self.name)
        self._takes_samples = False
        return super()._converted(first, others)

    def _pinned(self, tensor: Tensor) -> Tensor:
        assert self._device is not None
        return pinned(tensor, self._device)

    def _decide(self, batch: object, *, quiet: bool) -> None:
        """Choose the number of workers; if none are faster, decide again later."""
        # Training on an accelerator leaves the other CPUs to the workers.
        threads = torch.get_num_threads() if self._device is None else 1
        wanted = self._pace.workers(byte_count(batch), usable_cpus(), threads)
        # The next decision is based on new times.
        self._pace = Pace()
        if not wanted:
            return
        self._undecided = False
        if quiet and can_use_workers(self.loader, batch, wanted):
            self._pool.count = wanted
