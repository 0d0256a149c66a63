"""Sampling: the samples of each batch, as a pure function of seed, pass and position.

A *pass* is one iteration over the data. It is an epoch, unless `steps_per_epoch` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST
from fitorch.randomness import derive_seed

from .permutation import Permutation, Sequence

Indices = Tensor | Sequence | Permutation

_IN_MEMORY = 2**24  # samples; the order of more of them is computed as it is read

IndexTransform = Callable[[Tensor], Tensor]  # applied to the indices of many batches at once


@dataclass(frozen=True, slots=True)
class Order:
    """The order of samples, sharded over `world` processes.

    With n processes and batch size B, global batch k of a pass is `permutation[k*B*n : (k+1)*B*n]`.
    It is split evenly among the processes in rank order, so that n processes with batch size B / n
    use the same batches as one process with B. Each sample occurs exactly once per pass. If the
    last batch has fewer samples than there are processes, some processes get none, and their pass
    has one batch less. A start in the middle of a pass is as fast as one at its beginning, because
    no batches are skipped.

    Args:
        samples: The number of samples.
        batch_size: The number of samples in a batch of one process.
        shuffle: Whether to draw a new permutation for each pass.
        seed: The seed from which all permutations are derived.
        rank: The rank of this process, in [0, world).
        world: The number of processes.
    """

    samples: int
    batch_size: int
    shuffle: bool
    seed: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return -(-self.samples // self.per_round)

    @property
    def per_round(self) -> int:
        """The number of samples in a batch of all processes."""
        return self.batch_size * self.world

    @property
    def smallest_batch(self) -> int:
        """The size of the smallest part of the last global batch of a pass, at least 1."""
        last = self.samples % self.per_round or self.per_round
        return max(last // self.world, 1)

    def permutation(self, pass_index: int) -> Indices:
        """Return the sample numbers of a pass in their order."""
        if not self.shuffle:
            return Sequence(self.samples)
        seed = derive_seed(self.seed, "order", pass_index)
        if self.samples > _IN_MEMORY:
            return Permutation(self.samples, seed)
        # The order has its own generator, so that no other draw can change it.
        generator = torch.Generator(HOST).manual_seed(seed)
        return torch.randperm(self.samples, generator=generator, device=HOST)

    def batches(
        self,
        pass_index: int,
        start: int = 0,
        transform: IndexTransform | None = None,
        behind: int = 0,
    ) -> Iterator[Tensor]:
        """Return this process's sample numbers of each batch of a pass.

        Args:
            pass_index: The pass, counted from 0.
            start: The number of batches to skip.
            transform: A function applied to the numbers of many batches at once.
            behind: The number of samples to skip before that, from batches of a different size.
        """
        # Samples that were used with another batch size are left out before batches are made.
        order = self.permutation(pass_index)
        chunks = split(order, self.per_round, start, transform, behind)
        if self.world == 1:
            return chunks
        # The global batch is split by ranks, so that n processes use the batches of one.
        parts = (chunk.tensor_split(self.world)[self.rank] for chunk in chunks)
        return (part for part in parts if len(part))

    def before(self, pass_index: int, start: int, behind: int) -> Tensor:
        """Return this process's sample numbers of the batch before `start`.

        If `start` is 0, after another batch size, they are those of the first batch of the pass.
        """
        return next(self.batches(pass_index, max(start - 1, 0), behind=behind if start else 0))


def split(
    indices: Indices,
    size: int,
    start: int = 0,
    transform: IndexTransform | None = None,
    behind: int = 0,
    end: int | None = None,
) -> Iterator[Tensor]:
    """Yield consecutive pieces of `indices` of length `size`; the last one may be shorter.

    1024 pieces are made at a time: one by one would take more time, and all at once more memory.
    `transform`, which may look up the indices or move them to a device, gets the same blocks.

    Args:
        indices: The indices, a vector, or an object that computes slices of it.
        size: The length of a piece.
        start: The number of pieces to skip.
        transform: A function applied to blocks of pieces, or None.
        behind: The number of indices before the first piece.
        end: The number of indices up to the end of the last piece; None for all.
    """
    # A start in the middle computes its place; nothing is skipped.
    end = len(indices) if end is None else end
    for begin in range(behind + start * size, end, size * 1024):
        block = indices[begin : min(begin + size * 1024, end)]
        # A copy, because a reference to a view of one piece would keep all indices in memory.
        yield from (block.clone() if transform is None else transform(block)).split(size)


def index_lookup(table: Tensor, transform: IndexTransform | None) -> IndexTransform:
    """Return a function that looks up indices in `table`, and then applies `transform`."""
    return (
        (lambda block: table[block]) if transform is None else lambda block: transform(table[block])
    )
