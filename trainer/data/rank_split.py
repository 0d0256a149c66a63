"""Which part of the data is whose, where several processes share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from fitorch.randomness import (
    random_state,
    seed_everything,
    set_random_state,
    undisturbed_randomness,
)


@dataclass(frozen=True, slots=True)
class RankShard:
    """The part of one of several processes.

    Batches are handed out in rounds, one to each process in their order. Of a last round with
    fewer, the samples are split evenly, where they are known by number: so each comes once.

    Args:
        rank: The number of this process, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def rounds(self, batches: int | None) -> int | None:
        """Return how many rounds make up so many batches."""
        return None if batches is None else -(-batches // self.world)

    def smallest(self, last: int | None) -> int | None:
        """Return the samples of the smallest part of a round of `last` samples; at least one."""
        return last if last is None or self.world == 1 else max(last // self.world, 1)

    def of_indices(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Give this process's part of batches of sample numbers, tensors or lists."""
        return batches if self.world == 1 else self._parts(batches)

    def of_batches(self, batches: Iterator[Any], lacking: list[None]) -> Iterator[Any]:
        """Give this process's batches.

        Args:
            batches: Those of all processes.
            lacking: Gets a None where the last round had none for this process.
        """
        for each in iter(lambda: list(islice(batches, self.world)), []):
            if self.rank < len(each):
                yield each[self.rank]
            else:
                lacking.append(None)

    def _parts(self, batches: Iterator[Any]) -> Iterator[Any]:
        while each := list(islice(batches, self.world)):
            if len(each) == self.world:
                yield each[self.rank]
                continue
            own = self.part(each)
            if len(own):
                yield own
            return

    def part(self, batches: list[Any]) -> Any:
        """Return an even part of the samples of several batches."""
        if isinstance(batches[0], Tensor):
            return torch.cat(batches).tensor_split(self.world)[self.rank]
        samples = list(chain.from_iterable(batches))
        size, more = divmod(len(samples), self.world)
        begin = self.rank * size + min(self.rank, more)
        return samples[begin : begin + size + (self.rank < more)]


@dataclass(frozen=True, slots=True)
class PassLength:
    """How long a pass is, in units that do not depend on how many processes there are.

    Args:
        units: Samples, where the order of the samples is ours, else batches of a loader; None where
            that is not known.
        per_round: How many of them a batch of all processes takes.
    """

    units: int | None
    per_round: int

    def rounds(self, behind: int = 0) -> int | None:
        """Return how many batches make up what is left behind so many units."""
        return None if self.units is None else -(-(self.units - behind) // self.per_round)


ALONE = RankShard()


def padded(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """Give `count` items: the batches, then None, for a round that has none for this process."""
    given = 0
    for given, batch in enumerate(batches, 1):  # noqa: B007 - how many there were
        yield batch
    for _ in range(count - given):
        yield None


def in_step(batches: Iterator[Any], seed: int) -> Iterator[Any]:
    """Give batches that are drawn with the same random numbers in every process.

    Args:
        batches: They may draw from the global generators of Python, NumPy and torch.
        seed: What those numbers follow from.
    """
    with undisturbed_randomness():
        seed_everything(seed)
        state = random_state()
    while True:
        with undisturbed_randomness():
            set_random_state(state)
            batch = next(batches, _END)
            state = random_state()
        if batch is _END:
            return
        yield batch


_END = object()
