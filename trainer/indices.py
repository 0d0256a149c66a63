"""The indices that a loader's own sampler gives, many at once where the sampler is torch's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from .randomness import draw_seed
from .sampling import Finish, picking, split


class LoaderIndices:
    """The indices that a loader's own sampler gives, drawing the same random numbers.

    Args:
        loader: A loader over a `TensorDataset` or over `Subset`s of one.
        subset: For each sample of the loader's dataset its place in the tensors, or None.
    """

    def __init__(self, loader: DataLoader[Any], subset: Tensor | None) -> None:
        self._loader = loader
        self._subset = subset
        self._workers_started = loader.__dict__.get("_iterator") is not None

    def __call__(
        self, _pass_index: int, start: int = 0, finish: Finish | None = None
    ) -> Iterator[Tensor]:
        """Give the indices of a pass; what comes before batch `start` is drawn and left out."""
        if self._subset is not None:
            finish = picking(self._subset, finish)
        drawn = self._begin()
        batches = _vectorized(self._loader.batch_sampler, finish)
        if batches is None:
            batches = self._drawn_ahead(drawn)
            batches = batches if finish is None else map(finish, batches)
        for _ in range(start):
            next(batches, None)
        return batches

    def _begin(self) -> Iterator[Any]:
        """Make the sampler's iterator as a new iterator of the loader does.

        It draws a number to seed its workers; with workers it asks the sampler once more. Some
        samplers draw as soon as they are asked.
        """
        loader, sampler = self._loader, cast("Iterable[Any]", self._loader.batch_sampler)
        if loader.persistent_workers and self._workers_started:
            return iter(sampler)
        self._workers_started = True
        batches = iter(sampler)
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        return iter(sampler) if loader.num_workers else batches

    def _drawn_ahead(self, batches: Iterator[Any]) -> Iterator[Tensor]:
        """Ask the sampler as early as the loader does, which fills its workers' queues first."""
        ahead = self._loader.num_workers * (self._loader.prefetch_factor or 0)
        samples = len(self._loader.dataset)  # type: ignore[arg-type]
        drawn: deque[Tensor] = deque()
        for batch in batches:
            index = torch.tensor(batch.tolist() if hasattr(batch, "tolist") else list(batch))
            drawn.append(torch.where(index < 0, index + samples, index))
            if len(drawn) > ahead:
                yield drawn.popleft()
        yield from drawn


def _vectorized(batch_sampler: Any, finish: Finish | None) -> Iterator[Tensor] | None:
    """Do at once what the two samplers behind `shuffle=` do number by number, None for others."""
    if type(batch_sampler) is not BatchSampler:
        return None
    sampler: Any = batch_sampler.sampler
    shuffles = (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    known = shuffles or type(sampler) is SequentialSampler
    return _pieces(batch_sampler, sampler, finish) if known else None


def _pieces(batch_sampler: BatchSampler, sampler: Any, finish: Finish | None) -> Iterator[Tensor]:
    """Give the batches of a sequential or shuffling sampler."""
    samples, size = len(sampler.data_source), batch_sampler.batch_size
    order = _whole_order(sampler, samples)
    full = samples // size * size
    rest = order[full:].clone()
    pieces = split(order[:full], size, finish=finish)
    del order  # else there would be two of them at the end
    yield from pieces
    if getattr(sampler, "generator", None) is not None:
        torch.randperm(samples, generator=sampler.generator)  # it draws a second, and uses none
    if len(rest) and not batch_sampler.drop_last:
        yield rest if finish is None else finish(rest)


def _whole_order(sampler: Any, samples: int) -> Tensor:
    if type(sampler) is SequentialSampler:
        return torch.arange(samples)
    if sampler.generator is not None:
        return torch.randperm(samples, generator=sampler.generator)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(draw_seed()))
