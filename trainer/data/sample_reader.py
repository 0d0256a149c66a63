"""Reading of a batch sample by sample, with random numbers that depend on the batch alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch.utils.data import default_collate

from fitorch.errors import DataError

from .collate import Collate

Request = tuple[int, Any]  # the seed of a batch and the numbers of its samples


class SampleReader:
    """Reads and collates a batch of a dataset, in this process or in a worker.

    Each batch has its own random numbers: the global generators of Python, NumPy and torch are
    seeded for it and restored afterwards. Therefore, its bits do not depend on which process reads
    it, and when.

    Args:
        dataset: A dataset with `__getitem__`, or `__getitems__` for many samples at once.
        collate: Makes a batch of samples; it may draw random numbers, too.
    """

    def __init__(self, dataset: Any, collate: Collate = default_collate) -> None:
        self.dataset, self.collate = dataset, collate
        self._many = getattr(dataset, "__getitems__", None) is not None
        self._numpy = np.random.MT19937(0)

    def __getitems__(self, request: Request) -> list[Any]:
        """Return a list with one batch: torch's loader takes it for the samples of a batch."""
        return [self.batch(request)]

    def batch(self, request: Request) -> Any:
        """Return a batch."""
        seed, samples = request
        torch_generator = torch.default_generator
        before = random.getstate(), mtrand.get_bit_generator(), torch_generator.get_state()
        # NumPy's generator is exchanged, not saved: the old one comes back with its state.
        mtrand.set_bit_generator(self._numpy)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch_generator.manual_seed(seed)
        try:
            return self.collate(self._read(samples))
        except StopIteration as error:
            # The loop over the batches would take it for the end of the pass.
            message = (
                "the dataset, or collate_fn, raised StopIteration in the middle of the data; its "
                "__len__ may count more samples than it can read"
            )
            raise DataError(message) from error
        # A dataset that raises an error must not leave other random numbers behind.
        finally:
            random.setstate(before[0])
            mtrand.set_bit_generator(before[1])
            torch_generator.set_state(before[2])

    def _read(self, samples: list[Any]) -> list[Any]:
        if self._many:
            many: list[Any] = self.dataset.__getitems__(samples)
            return many
        return [self.dataset[sample] for sample in samples]
