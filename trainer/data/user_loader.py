"""Source over a user's DataLoader whose dataset is map-style."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fitorch.internals.torch import iterates_as_torch

from .dataset import SampledSource
from .indices import LoaderIndices
from .loader import makes_new_batches
from .rank_split import ALONE, RankShard
from .rng_state import owners_of
from .workers import loader_options


class UserLoaderSource(SampledSource):
    """A user's DataLoader over a map-style dataset: its samplers, collate function and workers.

    A second loader with the same settings reads the batches, each with its own seed, so that a
    batch does not depend on what was read before it.

    Args:
        loader: The user's loader.
        name: The name of the data, for messages.
        seed: The seed from which the seeds of the batches are derived.
        floating: The dtype for float64 of NumPy and pandas, if batches are not tensors.
        share: The shard of this process.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        name: str,
        seed: int,
        floating: torch.dtype = torch.float32,
        share: RankShard = ALONE,
    ) -> None:
        settings = loader_options(loader)
        super().__init__(loader.dataset, name, seed, floating, settings, loader.collate_fn)
        self._user_loader = loader
        self._new = makes_new_batches(loader)
        self._rank = share.rank
        self._indices = LoaderIndices(loader, share=share)
        self._share = share
        self.refresh()
        self._pool.count = loader.num_workers

    def refresh(self) -> None:
        """Ask the loader for its length again."""
        self._measure(self._user_loader)

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Return the batches of a pass from batch `start` on, without reading earlier ones."""
        self._opened = pass_index, start, behind
        lists = self._indices.lists(pass_index, start, behind)  # draws the order
        requests = self._with_seeds(lists, pass_index, start)
        return self._iterate(self._read_by_pool(requests))

    def _numbers_before(self, pass_index: int, start: int, behind: int) -> list[Any]:
        batch: Any = self._indices.before(pass_index, start, behind)
        return batch.tolist() if isinstance(batch, Tensor) else list(batch)

    @property
    def _collates(self) -> bool:
        return self._new

    @property
    def order_owners(self) -> list[Any]:
        """Objects with state that determines the order: the samplers and the loader."""
        return [*owners_of(self._user_loader), self._indices]


def recognize_samples(loader: DataLoader[Any]) -> bool:
    """Return whether a loader is a DataLoader with a batch sampler over a map-style dataset.

    Subclasses count if they iterate as DataLoader does.
    """
    sampled = loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)
    return iterates_as_torch(loader) and sampled
