"""Batches out of loaders, generators and other iterables, which are kept as they are."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader

from .arrays import array_leaves
from .columns import as_batch
from .errors import DataError
from .memory import smallest_batch
from .sampling import Order
from .structure import map_tensors


class PassOrder:
    """A batch sampler for torch's DataLoader that follows our order of samples."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.pass_index = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        return (index.tolist() for index in self.order.batches(self.pass_index, self.start))

    def __len__(self) -> int:
        return len(self.order)


class LoaderSource:
    """Batches out of a user's loader, generator or other iterable.

    Args:
        loader: Gives batches.
        name: What to call it in an error, as "train_data".
        floating: What float64 of NumPy and pandas becomes, where batches are not tensors.
        order: Told before each pass which one it is, where the order of samples is ours.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        name: str,
        floating: torch.dtype = torch.float32,
        order: PassOrder | None = None,
    ) -> None:
        self.loader = loader
        self.name = name
        self.floating = floating
        self.steps = length(loader)
        self.samples = length(getattr(loader, "dataset", None))
        self.smallest_batch = smallest_batch(loader) if isinstance(loader, DataLoader) else None
        self._order = order
        self._device: torch.device | None = None

    def batches(self, pass_index: int, start: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on, read and left out up to there."""
        if self._order is not None:
            self._order.pass_index, self._order.start = pass_index, start
            start = 0
        batches = self._placed(iter(self.loader))
        for _ in range(start):
            next(batches, None)
        return batches

    def to(self, device: torch.device) -> LoaderSource:
        """Move each batch to `device`."""
        self._device = None if device.type == "cpu" else device
        return self

    def served(self) -> list[int]:
        """Return no sample numbers: a loader does not tell them."""
        return []

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return the sample numbers of a batch of a pass, where the order is ours."""
        if self._order is None:
            return []
        samples = next(self._order.order.batches(pass_index, position), torch.tensor([]))
        return samples.tolist()

    def _placed(self, batches: Iterator[Any]) -> Iterator[Any]:
        try:
            for first in batches:
                yield from self._prepared(first, batches)
                return  # some loaders begin anew when asked again
        except (RuntimeError, OSError, EOFError) as error:
            died = _died(batches) or dead_worker(error)
            if not died:
                raise
            workers = getattr(self.loader, "num_workers", "?")
            of = f" of {self.name} died (num_workers={workers})"
            raise DataError(worker_died(died, of)) from error

    def _prepared(self, first: Any, others: Iterator[Any]) -> Iterable[Any]:
        """Turn arrays into tensors and move them, as far as there is a need to."""
        batches: Iterable[Any] = chain((first,), others)
        if not isinstance(self.loader, DataLoader):
            batches = map(self._copied, batches)
        elif any(not isinstance(leaf, torch.Tensor) for leaf in array_leaves(first)):
            batches = (as_batch(batch, self._batch_name, self.floating) for batch in batches)
        return batches if self._device is None else map(self._move, batches)

    @property
    def _batch_name(self) -> str:
        return f"a batch of {self.name}"

    def _copied(self, batch: Any) -> Any:
        """Return a batch that stays as it is: a generator may fill the same memory again."""
        return map_tensors(torch.Tensor.clone, as_batch(batch, self._batch_name, self.floating))

    def _move(self, batch: Any) -> Any:
        from accelerate.utils import send_to_device

        return send_to_device(batch, self._device, non_blocking=True)


def _died(batches: Any) -> str:
    """Return pid and signal of the workers of a DataLoader's iterator that died, "" for none.

    Its own error depends on what it was doing at that moment: a lost connection tells no more.
    """
    workers = {worker.sentinel: worker for worker in getattr(batches, "_workers", ())}
    with suppress(RuntimeError):  # torch's handler of SIGCHLD raises one, here or where it was
        for sentinel in wait(list(workers), timeout=0.2) if workers else ():
            workers[sentinel].join(1)
    return ", ".join(
        f"pid {worker.pid}, {_signal(worker.exitcode)}"
        for worker in workers.values()
        if worker.exitcode
    )


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def worker_died(which: str, of: str = " that reads data died") -> str:
    """Return what to tell about a worker process that died."""
    return (
        f"a worker process ({which}){of}; it is often out of memory or of shared memory "
        "(/dev/shm): try fewer workers or a smaller batch"
    )


def dead_worker(error: Exception) -> str:
    """Return the pid of the worker process that torch's error says has died, "" for any other.

    Torch may raise it anywhere, also in the middle of a step.
    """
    found = re.search(r"DataLoader worker \((pid(?:\(s\))? [\d, ]+)\)", str(error))
    return found[1] if found else ""


def length(thing: Any) -> int | None:
    """Return how many entries `thing` has, None where it does not tell."""
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
