"""Data sharding: the part of the data for each process."""

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
    """The shard of one of several processes.

    Batches are assigned in rounds, one to each process in rank order. If the last round has fewer
    batches, its samples are split evenly if they are known by number, so that each occurs once.

    Args:
        rank: The rank of this process.
        world: The number of processes.
    """

    rank: int = 0
    world: int = 1

    def rounds(self, batches: int | None) -> int | None:
        """Return the number of rounds for a number of batches."""
        return None if batches is None else -(-batches // self.world)

    def smallest(self, last: int | None) -> int | None:
        """Return the size of the smallest part of a round of `last` samples, at least 1."""
        return last if last is None or self.world == 1 else max(last // self.world, 1)

    def of_indices(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Return this process's part of batches of sample numbers, tensors or lists."""
        return batches if self.world == 1 else self._parts(batches)

    def of_batches(self, batches: Iterator[Any], missing: list[None]) -> Iterator[Any]:
        """Yield this process's batches.

        Args:
            batches: The batches of all processes.
            missing: A None is appended if the last round has no batch for this process.
        """
        # `iter(function, [])` ends with the first empty round.
        for batches_of_round in iter(lambda: list(islice(batches, self.world)), []):
            if self.rank < len(batches_of_round):
                yield batches_of_round[self.rank]
            else:
                missing.append(None)

    def _parts(self, batches: Iterator[Any]) -> Iterator[Any]:
        while batches_of_round := list(islice(batches, self.world)):
            # Complete rounds keep their batches whole, with the sizes that the user chose.
            if len(batches_of_round) == self.world:
                yield batches_of_round[self.rank]
                continue
            part = self.part(batches_of_round)
            if len(part):
                yield part
            return

    def part(self, batches: list[Any]) -> Tensor | list[Any]:
        """Return this process's even part of the samples of several batches."""
        if isinstance(batches[0], Tensor):
            # The sizes of the parts differ by at most one.
            return torch.cat(batches).tensor_split(self.world)[self.rank]
        samples = list(chain.from_iterable(batches))
        size, remainder = divmod(len(samples), self.world)
        begin = self.rank * size + min(self.rank, remainder)
        return samples[begin : begin + size + (self.rank < remainder)]


@dataclass(frozen=True, slots=True)
class PassLength:
    """The length of a pass, in units that do not depend on the number of processes.

    Args:
        units: The number of samples if fitorch determines their order, otherwise the number of a
            loader's batches; None if it is unknown.
        per_round: The number of units in a batch of all processes.
    """

    units: int | None
    per_round: int

    def rounds(self, behind: int = 0) -> int | None:
        """Return the number of rounds in the units after the first `behind`."""
        return None if self.units is None else -(-(self.units - behind) // self.per_round)


ALONE = RankShard()


def padded(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """Yield `count` items: the batches, then None for a round without one for this process."""
    number = 0
    for number, batch in enumerate(batches, 1):  # noqa: B007 - used after the loop
        yield batch
    for _ in range(count - number):
        yield None


def with_common_randomness(batches: Iterator[Any], seed: int) -> Iterator[Any]:
    """Yield batches that are drawn with the same random numbers in every process.

    Args:
        batches: The batches; they may draw from the global generators of Python, NumPy and torch.
        seed: The seed of these generators.
    """
    with undisturbed_randomness():
        seed_everything(seed)
        # The batches continue with this state, apart from the global generators.
        state = random_state()
    while True:
        # The state is exchanged for each batch: in between, the net draws from the global
        # generators.
        with undisturbed_randomness():
            set_random_state(state)
            batch = next(batches, _END)
            state = random_state()
        if batch is _END:
            return
        yield batch


_END = object()
