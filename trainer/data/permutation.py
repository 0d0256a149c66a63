"""Orders of samples that are computed where they are read: they take no memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST
from fitorch.randomness import derive_seed

_ROUNDS = 6

# Constants of splitmix64 (Steele, Lea and Flood, 2014), as int64.
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


@dataclass(frozen=True, slots=True)
class Sequence:
    """The numbers 0, 1, ... in their order; slices are computed.

    Args:
        count: How many there are.
    """

    count: int

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, places: slice) -> Tensor:
        """Return a slice as an int64 tensor."""
        begin, end, _ = places.indices(self.count)
        return torch.arange(begin, max(begin, end), device=HOST)


@dataclass(frozen=True, slots=True)
class Permutation:
    """The numbers 0, 1, ... in a random order; slices are computed.

    A Feistel network permutes the numbers below a power of 4. Those that leave the range go through
    it again until they come back ("cycle walking"), which makes a permutation of the range.

    Args:
        count: How many there are.
        seed: The seed.

    Source: Black and Rogaway, 2002, Ciphers with arbitrary finite domains.
    """

    count: int
    seed: int

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, places: slice) -> Tensor:
        """Return a slice as an int64 tensor."""
        numbers = self._permuted(Sequence(self.count)[places])
        while True:
            outside = (numbers >= self.count).nonzero().squeeze(1)
            if not len(outside):
                return numbers
            numbers[outside] = self._permuted(numbers[outside])

    def _permuted(self, numbers: Tensor) -> Tensor:
        """Return the image of each number in the smallest power of 4 that holds the range."""
        bits = max(1, -(-(self.count - 1).bit_length() // 2))
        mask = (1 << bits) - 1
        left, right = numbers >> bits, numbers & mask
        for number in range(_ROUNDS):
            key = derive_seed(self.seed, "round", number)
            left, right = right, left ^ (_mixed(right, key) & mask)
        return (left << bits) | right


def _mixed(numbers: Tensor, key: int) -> Tensor:
    """Return numbers whose lower bits depend on all bits of `numbers` and of the key."""
    mixed = numbers + key
    for multiplier, shift in zip(_MULTIPLIERS, (30, 27), strict=True):
        # The mask turns torch's arithmetic shift into a logical one.
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return (mixed >> 33) & 0x7FFFFFFF
