"""The in-memory fast path: batches are gathered by index, a whole batch per call.

It serves tensors, and a `DataLoader` over a `TensorDataset` (or `Subset`s of one): the loader's own
sampler decides the order, and the batches are bit for bit those the loader would give, but no
sample is ever collated and no worker process started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Subset, TensorDataset, default_collate

from fitorch.tree import byte_count, leaves, map_tensors

from .indices import LoaderIndices
from .rank_split import ALONE, PassLength, RankShard
from .rng_state import owners_of
from .sampling import Finish, Order, picking

# (pass, first batch, finish, units before that) -> the indices of each batch
Indices = Callable[[int, int, Finish | None, int], Iterator[Tensor]]


@dataclass(slots=True)
class MemorySource:
    """Batches out of tensors that are all there.

    Args:
        tensors: Nested tensors with one entry per sample along dimension 0; a batch has the same
            structure.
        indices: Gives the sample numbers of each batch of a pass, from a batch on.
        steps: Batches in a pass, None where that is not known beforehand.
        samples: Samples in a pass, None where that is not known beforehand.
        smallest_batch: Samples in the smallest batch, None where that is not known beforehand.
        last: The sample numbers of the batch served last.
        device: Where batches go, None for where the tensors are.
        loader: The user's, whose samplers decide the order, or None.
        pass_length: What a pass is counted in: see `Source`.
    """

    tensors: Any
    indices: Indices
    steps: int | None
    samples: int | None
    smallest_batch: int | None
    last: Tensor | None = None
    device: torch.device | None = None
    loader: DataLoader[Any] | None = None
    pass_length: PassLength = PassLength(None, 1)  # noqa: RUF009 - frozen

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on."""
        home = next(leaves(self.tensors)).device
        if self.device is None or home.type == self.device.type:
            return self._gathered(home, pass_index, start, behind)
        pinned = self.device.type == "cuda"
        batches = self._gathered(home, pass_index, start, behind, pinned=pinned)
        return (map_tensors(self._moved, batch) for batch in batches)

    def to(self, device: torch.device) -> MemorySource:
        """Move the tensors to `device`, once, where they take at most half of what is free.

        Where they take more, each batch is moved by itself.
        """
        self.device = device
        if fits(self.tensors, device):
            self.tensors = map_tensors(lambda tensor: tensor.to(device), self.tensors)
        return self

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return no sample numbers: a sampler must not be asked twice."""
        return []

    def close(self) -> None:
        """Let go of nothing: there are no worker processes."""

    @property
    def stateful(self) -> None:
        """Who knows where in a pass it is: nobody needs to."""
        return None

    def rewind(self, state: Any) -> None:
        """Do nothing: nobody has such a state."""

    @property
    def order_owners(self) -> list[Any]:
        """Who decides the order: the user's samplers, where there are any."""
        return [] if self.loader is None else [*owners_of(self.loader), self.indices]

    @property
    def reading_owners(self) -> list[Any]:
        """Who draws random numbers while samples are read: nobody."""
        return []

    def _gathered(
        self,
        home: torch.device,
        pass_index: int,
        start: int,
        behind: int,
        *,
        pinned: bool = False,
    ) -> Iterator[Any]:
        gather = gatherer(self.tensors, pinned=pinned)
        # This draws what decides the order.
        indices = self.indices(pass_index, start, mover(home), behind)
        return self._gather(indices, gather)

    def _gather(self, indices: Iterator[Tensor], gather: Callable[[Tensor], Any]) -> Iterator[Any]:
        for index in indices:
            self.last = index
            yield gather(index)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def served(self, count: int = 3) -> list[int]:
        """Return the first sample numbers of the batch served last, for messages."""
        return [] if self.last is None else self.last[:count].tolist()


def own_source(tensors: Any, order: Order) -> MemorySource:
    """Serve `tensors` in an order of our own."""
    steps, smallest = len(order), order.smallest_batch
    pass_length = PassLength(order.samples, order.per_round)
    return MemorySource(
        tensors, order.batches, steps, order.samples, smallest, pass_length=pass_length
    )


def dataset_source(dataset: Any, order: Order) -> MemorySource | None:
    """Serve a dataset that holds plain tensors in an order of our own, None for any other."""
    found = _tensors_behind(dataset)
    if found is None:
        return None
    tensors, subset = found
    source = own_source(list(tensors), order)
    if subset is not None:
        places = subset
        source.indices = lambda number, start, finish, behind: order.batches(
            number, start, picking(places, finish), behind
        )
    return source


def recognize(loader: DataLoader[Any], share: RankShard = ALONE) -> MemorySource | None:
    """Return the fast path for a loader over in-memory tensors, None for any other loader.

    Recognized is what we know to the last detail: a plain `DataLoader` with the default collate and
    automatic batching over a `TensorDataset`, or over `Subset`s of one. Samplers of numbers may be
    any.
    """
    plain = (
        type(loader) is DataLoader
        and loader.collate_fn is default_collate
        and loader.batch_sampler is not None
        and not isinstance(loader.sampler, BatchSampler)  # its samples are batches
        and loader.worker_init_fn is None
    )
    found = _tensors_behind(loader.dataset) if plain else None
    if found is None:
        return None
    tensors, subset = found
    indices, (steps, samples) = LoaderIndices(loader, subset, share), _lengths(loader)
    return MemorySource(
        list(tensors),
        indices,
        share.rounds(steps),
        samples,
        share.smallest(smallest_batch(loader)),
        loader=loader,
        pass_length=PassLength(steps, share.world),
    )


def gatherer(tensors: Any, *, pinned: bool = False) -> Callable[[Tensor], Any]:
    """Return the function that picks samples out of `tensors` by index.

    Args:
        tensors: Nested tensors.
        pinned: Put them where a CUDA device can fetch them while the CPU goes on.
    """
    pick = _pick_pinned if pinned else _pick
    if isinstance(tensors, (tuple, list)) and all(isinstance(item, Tensor) for item in tensors):
        flat = tuple(tensors)
        return lambda index: [pick(tensor, 0, index) for tensor in flat]
    return lambda index: map_tensors(lambda tensor: pick(tensor, 0, index), tensors)


_pick = torch.index_select


def _pick_pinned(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    if tensor.requires_grad:  # it can't be told where to put what it gives
        return torch.index_select(tensor, dim, index)
    shape = (len(index), *tensor.shape[1:])
    place = torch.empty(shape, dtype=tensor.dtype, pin_memory=True)
    return torch.index_select(tensor, dim, index, out=place)


def mover(device: torch.device) -> Finish | None:
    """Return what brings the indices of many batches to `device`, None for the CPU."""
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return lambda block: block.pin_memory().to(device, non_blocking=True)
    return lambda block: block.to(device)


def fits(tensors: Any, device: torch.device) -> bool:
    """Say whether `tensors` take at most half of the memory that is free on `device`."""
    if device.type != "cuda":
        return True
    return byte_count(tensors) <= torch.cuda.mem_get_info(device)[0] // 2


def _tensors_behind(dataset: Any) -> tuple[tuple[Tensor, ...], Tensor | None] | None:
    """Return a dataset's tensors and the indices that its `Subset`s pick, None if unknown."""
    if type(dataset) is TensorDataset:
        return (dataset.tensors, None) if _are_plain(dataset.tensors) else None
    if type(dataset) is not Subset:
        return None
    found, indices = _tensors_behind(dataset.dataset), _subset_indices(dataset)
    if found is None or indices is None:
        return None
    tensors, inner = found
    return tensors, indices if inner is None else inner[indices]


def _are_plain(tensors: tuple[Tensor, ...]) -> bool:
    """Say whether all of `tensors` are dense and of no special kind, on one device."""
    return len({tensor.device for tensor in tensors}) == 1 and all(
        type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_nested
        for tensor in tensors
    )


def _subset_indices(subset: Subset[Any]) -> Tensor | None:
    """Return the places that a `Subset` picks, None where looking them up may mean anything."""
    given: Any = subset.indices
    if type(given) not in (list, tuple, range, np.ndarray, Tensor):
        return None  # a pandas Series, say, looks up labels
    try:
        indices = torch.tensor(given.tolist() if hasattr(given, "tolist") else given)
    except (TypeError, ValueError, RuntimeError):
        return None
    if indices.dim() != 1 or indices.dtype != torch.int64:
        return None
    return torch.where(indices < 0, indices + len(subset.dataset), indices)  # type: ignore[arg-type]


def _lengths(loader: DataLoader[Any]) -> tuple[int | None, int | None]:
    """Return a loader's batches and samples in a pass, as far as its samplers tell."""
    sampler: Iterable[Any] = getattr(loader.batch_sampler, "sampler", ())
    try:
        return len(loader), len(sampler) if type(loader.batch_sampler) is BatchSampler else None  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None, None


def smallest_batch(loader: DataLoader[Any]) -> int | None:
    """Return the samples in the smallest batch of a loader, None where that is not known."""
    _, samples = _lengths(loader)
    if samples is None or loader.batch_size is None:
        return None
    return (
        loader.batch_size if loader.drop_last else samples % loader.batch_size or loader.batch_size
    )
