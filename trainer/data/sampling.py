"""The order of samples: which ones make up a batch, as a pure function of seed, pass and position.

A *pass* goes once over the data. It is the epoch, unless `steps_per_epoch` cuts epochs differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fitorch.randomness import derive_seed

Finish = Callable[[Tensor], Tensor]  # what to do with the indices of many batches at once


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which `samples` samples are seen, shared out over `world` processes.

    With n processes and batch size B, global batch k of a pass is `permutation[k*B*n : (k+1)*B*n]`.
    It is split evenly among the processes, in their order, so that n processes with B / n see what
    one sees with B. Each sample comes exactly once a pass. Of a last batch with fewer samples than
    processes, some get none, and their pass is a batch shorter. Starting in the middle
    costs as much as starting at the beginning: nothing is skipped over, nothing is read.

    Args:
        samples: How many samples there are.
        batch_size: Samples in a batch of one process.
        shuffle: Draw a new permutation for each pass, else keep the samples' order.
        seed: What all permutations follow from.
        rank: This process's number, in [0, world).
        world: How many processes share the samples.
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
        """The samples in the smallest part of the last global batch of a pass, at least one."""
        last = self.samples % self.per_round or self.per_round
        return max(last // self.world, 1)

    def permutation(self, pass_index: int) -> Tensor:
        """Return the sample numbers of a pass in their order, int64 of shape (samples,)."""
        if not self.shuffle:
            return torch.arange(self.samples)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", pass_index))
        return torch.randperm(self.samples, generator=generator)

    def batches(
        self,
        pass_index: int,
        start: int = 0,
        finish: Finish | None = None,
        behind: int = 0,
    ) -> Iterator[Tensor]:
        """Give this process's sample numbers of each batch of a pass, from batch `start` on.

        Args:
            pass_index: The pass, counted from 0.
            start: Batches to leave out.
            finish: Applied to the numbers of many batches at once, before they are cut.
            behind: Samples to leave out before that, which were in batches of another size.
        """
        rest = self.permutation(pass_index)[behind:]
        chunks = split(rest, self.per_round, start, finish)
        if self.world == 1:
            return chunks
        parts = (chunk.tensor_split(self.world)[self.rank] for chunk in chunks)
        return (part for part in parts if len(part))


def split(
    indices: Tensor,
    size: int,
    start: int = 0,
    finish: Finish | None = None,
) -> Iterator[Tensor]:
    """Give consecutive pieces of `size` of `indices`, from piece `start` on; the last is shorter.

    A thousand pieces are cut at a time: one by one would cost more, all at once more memory.
    `finish`, which may look the indices up or move them to a device, gets a thousand at once too.
    """
    for begin in range(start * size, len(indices), size * 1024):
        block = indices[begin : begin + size * 1024]
        # A copy: one piece that somebody keeps would hold on to all indices.
        yield from (block.clone() if finish is None else finish(block)).split(size)


def picking(places: Tensor, finish: Finish | None) -> Finish:
    """Return what looks indices up in `places`, before `finish`."""
    return (lambda block: places[block]) if finish is None else lambda block: finish(places[block])
