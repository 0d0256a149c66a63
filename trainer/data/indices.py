"""Indices from the sampler of a user's loader, vectorized for torch's own samplers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fitorch.devices.accelerators import HOST
from fitorch.internals.torch import has_begun
from fitorch.randomness import draw_seed

from .permutation import Sequence
from .rank_split import ALONE, PassLength, RankShard
from .rng_state import set_epoch
from .sampling import IndexTransform, Indices, Order, index_lookup, split

# Samplers that draw all their random numbers before their first index.
_DRAWS_AT_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


class OrderIndices:
    """The indices of an `Order`, perhaps of some samples of the tensors alone.

    Args:
        order: The order.
        subset: For each sample of the order, its index in the tensors; None if they are the same.
    """

    def __init__(self, order: Order, subset: Tensor | None = None) -> None:
        self._order, self._subset = order, subset

    def __call__(
        self,
        pass_index: int,
        start: int = 0,
        transform: IndexTransform | None = None,
        behind: int = 0,
    ) -> Iterator[Tensor]:
        """Return the indices of the batches of a pass; the arguments are those of the order."""
        if self._subset is not None:
            transform = index_lookup(self._subset, transform)
        return self._order.batches(pass_index, start, transform, behind)

    def before(self, pass_index: int, start: int, behind: int) -> Tensor:
        """Return the indices of the batch before `start`."""
        index = self._order.before(pass_index, start, behind)
        return index if self._subset is None else self._subset[index]

    def adopt(self, subset: Tensor | None, samples: int) -> None:
        """Take over other indices, and their number."""
        self._subset, self._order = subset, replace(self._order, samples=samples)

    @property
    def rounds(self) -> int:
        """The number of batches in a pass."""
        return len(self._order)

    @property
    def samples(self) -> int:
        """The number of samples in a pass."""
        return self._order.samples

    @property
    def smallest_batch(self) -> int:
        """The size of the smallest batch of a pass."""
        return self._order.smallest_batch

    @property
    def pass_length(self) -> PassLength:
        """The length of a pass."""
        return PassLength(self._order.samples, self._order.per_round)


class LoaderIndices:
    """The indices of a loader's own sampler, with the same random numbers as the loader draws.

    The order is drawn when a pass begins, so that it depends only on the states of the generators
    at that time. Samplers of torch do this themselves; from other samplers with a length, the whole
    pass is read at once, and from endless ones batch by batch.

    Args:
        loader: A loader with a batch sampler, over a map-style dataset.
        subset: For each sample of the loader's dataset, its index in the tensors; or None.
        share: The shard of this process.
    """

    def __init__(
        self, loader: DataLoader[Any], subset: Tensor | None = None, share: RankShard = ALONE
    ) -> None:
        self._share = share
        self._skipped: Any = None  # the batch of this process before the start of the pass
        self.loader = loader
        self._subset = subset
        self._workers = bool(loader.num_workers)
        self._persistent = bool(loader.persistent_workers)
        self._workers_started = has_begun(loader)

    def __call__(
        self,
        pass_index: int,
        start: int = 0,
        transform: IndexTransform | None = None,
        behind: int = 0,
    ) -> Iterator[Tensor]:
        """Return the indices of the batches of a pass; earlier batches are drawn and skipped.

        Args:
            pass_index: The pass, counted from 0.
            start: The number of batches of this process to skip.
            transform: A function applied to the indices of many batches at once.
            behind: The number of batches of the loader to skip before that.
        """
        if self._subset is not None:
            transform = index_lookup(self._subset, transform)
        # This comes before the order: torch's loader draws the seed of its workers first.
        drawn = self._new_iterator(pass_index)
        first, kept = self._skips(start, behind)
        batches = _vectorized(self.loader.batch_sampler, first, transform)
        if batches is None:
            batches = map(self._dataset_indices, islice(self._draw(drawn), first, None))
            batches = batches if transform is None else map(transform, batches)
        return self._share.of_indices(self._rest(batches, kept))

    def lists(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[list[Any]]:
        """Return the batches of the sampler as lists; its samples need not be numbers."""
        drawn = self._new_iterator(pass_index)
        first, kept = self._skips(start, behind)
        batches = _vectorized(self.loader.batch_sampler, first, None)
        if batches is not None:
            return map(Tensor.tolist, self._share.of_indices(self._rest(batches, kept)))
        lists = map(list, islice(self._draw(drawn), first, None))
        return self._share.of_indices(self._rest(lists, kept))

    def before(self, pass_index: int, start: int, behind: int) -> Any:
        """Return the batch of this process before the start of the pass that was drawn last.

        After another number of processes, it may be one of another process.
        """
        return self._skipped

    def _skips(self, start: int, behind: int) -> tuple[int, int]:
        """Return how many batches of the loader to skip, and how many of one round to keep then."""
        skipped = start * self._share.world + behind
        kept = min(self._share.world, skipped) if self._share.world > 1 else 0
        return skipped - kept, kept

    def _rest(self, batches: Iterator[Any], kept: int) -> Iterator[Any]:
        """Return the batches after the first `kept`, of which the one of this process is noted."""
        round_before = list(islice(batches, kept))
        self._skipped = round_before[min(self._share.rank, kept - 1)] if round_before else None
        return batches

    def adopt(self, subset: Tensor | None, samples: int) -> None:
        """Take over other indices; the loader's sampler knows their number."""
        self._subset = subset

    @property
    def rounds(self) -> int | None:
        """The number of batches of this process in a pass, None if it is unknown."""
        return self._share.rounds(_lengths(self.loader)[0])

    @property
    def samples(self) -> int | None:
        """The number of samples in a pass, None if it is unknown."""
        return _lengths(self.loader)[1]

    @property
    def smallest_batch(self) -> int | None:
        """The size of the smallest batch of a pass, None if it is unknown."""
        return self._share.smallest(smallest_batch(self.loader))

    @property
    def pass_length(self) -> PassLength:
        """The length of a pass."""
        return PassLength(_lengths(self.loader)[0], self._share.world)

    def state_dict(self) -> dict[str, bool]:
        """Return further state that determines which numbers the loader draws for a pass."""
        return {
            "workers": self._workers,
            "persistent": self._persistent,
            "started": self._workers_started,
        }

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        """Restore the state, to draw like the saved loader, whose workers may differ."""
        self._workers, self._persistent = state["workers"], state["persistent"]
        self._workers_started = state["started"]

    def _new_iterator(self, pass_index: int) -> Iterator[Any]:
        """Return an iterator of the sampler, and draw what a new iterator of the loader draws.

        That is a number to seed the workers; with workers, the loader creates a second iterator of
        the sampler. Some samplers draw when their iterator is created.
        """
        loader, sampler = self.loader, cast("Iterable[Any]", self.loader.batch_sampler)
        set_epoch(pass_index, loader.sampler, sampler, getattr(sampler, "sampler", None))
        # Persistent workers are seeded once, when the first iterator is created.
        if self._persistent and self._workers_started:
            return iter(sampler)
        self._workers_started = True
        # The order of the next three lines is that of torch's loader, for the same numbers.
        batches = iter(sampler)
        _empty_for(loader.generator).random_(generator=loader.generator)
        return iter(sampler) if self._workers else batches

    def _draw(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Make the sampler draw now, by reading its first batch, or all if it draws per sample."""
        batch_sampler: Any = self.loader.batch_sampler
        plain = type(batch_sampler) is BatchSampler
        if plain and type(batch_sampler.sampler) in _DRAWS_AT_ONCE:
            return _start_iterator(batches)
        sized = hasattr(batch_sampler.sampler if plain else batch_sampler, "__len__")
        # Samplers that draw for each sample would draw between the random numbers of the net.
        return iter(list(batches)) if sized else batches

    def _dataset_indices(self, batch: Any) -> Tensor:
        index = torch.tensor(
            batch.tolist() if hasattr(batch, "tolist") else list(batch), device=HOST
        )
        samples = len(self.loader.dataset)  # type: ignore[arg-type]
        # Negative numbers count from the end, as for the dataset itself.
        return torch.where(index < 0, index + samples, index)


def _start_iterator(batches: Iterator[Any]) -> Iterator[Any]:
    """Return the iterator after its first batch was read, which makes the sampler draw."""
    first = list(islice(batches, 1))
    return (batch for part in (first, batches) for batch in part)


def _vectorized(
    batch_sampler: object, start: int, transform: IndexTransform | None
) -> Iterator[Tensor] | None:
    """Return the indices of the two samplers behind `shuffle=`, vectorized; None for others."""
    if type(batch_sampler) is not BatchSampler:
        return None
    sampler: Any = batch_sampler.sampler
    shuffles = (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if not shuffles and type(sampler) is not SequentialSampler:
        return None
    return _cut_into_batches(_draw_order(sampler), batch_sampler, start, transform)


def _cut_into_batches(
    order: Indices, batch_sampler: BatchSampler, start: int, transform: IndexTransform | None
) -> Iterator[Tensor]:
    """Yield the batches of the order of a sequential or shuffling sampler."""
    samples, size = len(order), batch_sampler.batch_size
    full = samples // size * size
    # A copy, because a view would keep the whole order in memory.
    rest = order[full:].clone()
    pieces = split(order, size, start, transform, end=full)
    del order  # so that its memory is free when torch draws the next one below
    yield from pieces
    if getattr(batch_sampler.sampler, "generator", None) is not None:
        generator: Any = batch_sampler.sampler.generator  # type: ignore[union-attr]
        # torch's sampler draws it too, unused.
        torch.randperm(samples, generator=generator, device=generator.device)
    if len(rest) and not batch_sampler.drop_last and start * size <= full:
        yield rest if transform is None else transform(rest)


def _draw_order(sampler: Any) -> Indices:
    samples = len(sampler.data_source)
    if type(sampler) is SequentialSampler:
        return Sequence(samples)
    if sampler.generator is not None:
        generator = sampler.generator
        return torch.randperm(samples, generator=generator, device=generator.device).to(HOST)
    # torch's sampler draws a seed too, and then the order from a generator of its own.
    generator = torch.Generator(HOST).manual_seed(draw_seed())
    return torch.randperm(samples, generator=generator, device=HOST)


def _empty_for(generator: torch.Generator | None) -> Tensor:
    """Return a tensor that a generator fills, whatever torch's default device is."""
    device = HOST if generator is None else generator.device
    return torch.empty((), dtype=torch.int64, device=device)


def _lengths(loader: DataLoader[Any]) -> tuple[int | None, int | None]:
    """Return a loader's numbers of batches and samples in a pass, None if they are unknown."""
    sampler: Iterable[Any] = getattr(loader.batch_sampler, "sampler", ())
    try:
        return len(loader), len(sampler) if type(loader.batch_sampler) is BatchSampler else None  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None, None


def smallest_batch(loader: DataLoader[Any]) -> int | None:
    """Return the number of samples in the smallest batch of a loader, None if it is unknown."""
    _, samples = _lengths(loader)
    if samples is None or loader.batch_size is None:
        return None
    return (
        loader.batch_size if loader.drop_last else samples % loader.batch_size or loader.batch_size
    )
