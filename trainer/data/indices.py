"""The indices that a loader's own sampler gives, many at once where the sampler is torch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

from fitorch.internals.torch import has_begun
from fitorch.randomness import draw_seed

from .rank_split import ALONE, RankShard
from .rng_state import set_epoch
from .sampling import Finish, picking, split

_AT_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


class LoaderIndices:
    """The indices that a loader's own sampler gives, drawing the same random numbers.

    What decides the order is drawn when a pass begins, so that it depends on the generators' states
    at that moment alone. Samplers of torch do so by themselves; others that tell their length are
    asked for the whole pass at once, endless ones batch by batch.

    Args:
        loader: A loader with a batch sampler, over a map-style dataset.
        subset: For each sample of the loader's dataset its place elsewhere, or None.
        share: The part that this process gets.
    """

    def __init__(
        self, loader: DataLoader[Any], subset: Tensor | None = None, share: RankShard = ALONE
    ) -> None:
        self._share = share
        self._loader = loader
        self._subset = subset
        self._workers = bool(loader.num_workers)
        self._persistent = bool(loader.persistent_workers)
        self._workers_started = has_begun(loader)

    def __call__(
        self, pass_index: int, start: int = 0, finish: Finish | None = None, behind: int = 0
    ) -> Iterator[Tensor]:
        """Give the indices of a pass; what comes before batch `start` is drawn and left out.

        Args:
            pass_index: The pass, counted from 0.
            start: Batches of this process to leave out.
            finish: Applied to the indices of many batches at once.
            behind: Batches of the loader to leave out before that.
        """
        if self._subset is not None:
            finish = picking(self._subset, finish)
        drawn = self._begin(pass_index)
        start = start * self._share.world + behind
        batches = _vectorized(self._loader.batch_sampler, start, finish)
        if batches is None:
            batches = map(self._place, islice(self._drawn(drawn), start, None))
            batches = batches if finish is None else map(finish, batches)
        return self._share.of_indices(batches)

    def lists(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[list[Any]]:
        """Give what the sampler gives, which need not be numbers, as lists."""
        drawn = self._begin(pass_index)
        start = start * self._share.world + behind
        batches = _vectorized(self._loader.batch_sampler, start, None)
        if batches is not None:
            return map(Tensor.tolist, self._share.of_indices(batches))
        lists = map(list, islice(self._drawn(drawn), start, None))
        return self._share.of_indices(lists)

    def state_dict(self) -> dict[str, bool]:
        """Return what else decides which numbers the loader draws when a pass begins."""
        return {
            "workers": self._workers,
            "persistent": self._persistent,
            "started": self._workers_started,
        }

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        """Draw as the loader did whose state this is, though this one may have other workers."""
        self._workers, self._persistent = state["workers"], state["persistent"]
        self._workers_started = state["started"]

    def _begin(self, pass_index: int) -> Iterator[Any]:
        """Make the sampler's iterator as a new iterator of the loader does.

        It draws a number to seed its workers; with workers it asks the sampler once more. Some
        samplers draw as soon as they are asked.
        """
        loader, sampler = self._loader, cast("Iterable[Any]", self._loader.batch_sampler)
        set_epoch(pass_index, loader.sampler, sampler, getattr(sampler, "sampler", None))
        if self._persistent and self._workers_started:
            return iter(sampler)
        self._workers_started = True
        batches = iter(sampler)
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        return iter(sampler) if self._workers else batches

    def _drawn(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Have the sampler draw: by its first batch, or by all where it draws as it goes."""
        batch_sampler: Any = self._loader.batch_sampler
        plain = type(batch_sampler) is BatchSampler
        if plain and type(batch_sampler.sampler) in _AT_ONCE:
            return _begun(batches)
        sized = hasattr(batch_sampler.sampler if plain else batch_sampler, "__len__")
        return iter(list(batches)) if sized else batches

    def _place(self, batch: Any) -> Tensor:
        index = torch.tensor(batch.tolist() if hasattr(batch, "tolist") else list(batch))
        samples = len(self._loader.dataset)  # type: ignore[arg-type]
        return torch.where(index < 0, index + samples, index)


def _begun(batches: Iterator[Any]) -> Iterator[Any]:
    """Return an iterator that has given its first batch already, to itself."""
    first = list(islice(batches, 1))
    return (batch for part in (first, batches) for batch in part)


def _vectorized(batch_sampler: Any, start: int, finish: Finish | None) -> Iterator[Tensor] | None:
    """Do at once what the two samplers behind `shuffle=` do number by number, None for others."""
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
    return _pieces(_whole_order(sampler), batch_sampler, start, finish)


def _pieces(
    order: Tensor, batch_sampler: BatchSampler, start: int, finish: Finish | None
) -> Iterator[Tensor]:
    """Cut the order of a sequential or shuffling sampler into batches."""
    samples, size = len(order), batch_sampler.batch_size
    full = samples // size * size
    rest = order[full:].clone()
    pieces = split(order[:full], size, start, finish)
    del order  # else there would be two of them at the end
    yield from pieces
    if getattr(batch_sampler.sampler, "generator", None) is not None:
        generator: Any = batch_sampler.sampler.generator  # type: ignore[union-attr]
        torch.randperm(samples, generator=generator)  # it draws a second, and uses none
    if len(rest) and not batch_sampler.drop_last and start * size <= full:
        yield rest if finish is None else finish(rest)


def _whole_order(sampler: Any) -> Tensor:
    samples = len(sampler.data_source)
    if type(sampler) is SequentialSampler:
        return torch.arange(samples)
    if sampler.generator is not None:
        return torch.randperm(samples, generator=sampler.generator)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(draw_seed()))
