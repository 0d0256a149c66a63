"""Batches out of loaders, generators and other iterables, which are kept as they are."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader

from fitorch.errors import DataError
from fitorch.randomness import derive_seed
from fitorch.tree import map_tensors

from .arrays import array_leaves, as_batch
from .in_memory import smallest_batch
from .rank_split import ALONE, PassLength, RankShard, in_step
from .rng_state import Held, has_state, owners_of, set_epoch, stateful


class LoaderSource:
    """Batches out of a user's loader, generator or other iterable.

    Args:
        loader: Gives batches.
        name: What to call it in an error, as "train_data".
        floating: What float64 of NumPy and pandas becomes, where batches are not tensors.
        share: The part that this process gets: every so many batches one, which all must read.
        seed: What all processes draw while they read follows from.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        name: str,
        floating: torch.dtype = torch.float32,
        share: RankShard = ALONE,
        seed: int = 0,
    ) -> None:
        self.loader = loader
        self.name = name
        self.floating = floating
        self._share, self._seed = share, seed
        self.pass_length = PassLength(length(loader), share.world)
        self.steps = self.pass_length.rounds()
        self.samples = length(getattr(loader, "dataset", None))
        smallest = smallest_batch(loader) if isinstance(loader, DataLoader) else None
        self.smallest_batch = share.smallest(smallest)
        self._collates = isinstance(loader, DataLoader)  # its batches stay as they are
        self._device: torch.device | None = None
        self._rewound = False

    @property
    def worker_count(self) -> int | str:
        """How many processes read, "?" where that is not known."""
        return getattr(self.loader, "num_workers", "?")

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on.

        Those before are read once more and left out, unless the loader itself was put back there.
        """
        set_epoch(pass_index, getattr(self.loader, "dataset", None))
        if self._share.world > 1:
            return self._shared(pass_index, behind + start * self._share.world)
        batches = self._placed(iter(self.loader))
        for _ in range(0 if self._rewound else start + behind):
            next(batches, None)
        self._rewound = False
        return batches

    def _shared(self, pass_index: int, start: int) -> Iterator[Any]:
        """Read all of a pass, as every process does, and give the batches of this one.

        The last is None in a round that has none for it.
        """
        seed = derive_seed(self._seed, "iterate", self.name, pass_index)
        lacking: list[None] = []
        everybodys = islice(in_step(_iterated(self.loader), seed), start, None)
        batches = self._share.of_batches(everybodys, lacking)
        yield from self._placed(batches)
        yield from lacking

    def rewind(self, state: Any) -> None:
        """Put who knows where in a pass it is back there."""
        self.stateful.load_state_dict(state)
        self._rewound = True

    @property
    def stateful(self) -> Any:
        """Who knows where in a pass it is, by a state of its own: loader, dataset or None."""
        return stateful(self.loader)

    @property
    def order_owners(self) -> list[Any]:
        """Who decides the order: the samplers, and a dataset or iterable that does it itself."""
        itself: Any = getattr(self.loader, "dataset", self.loader)
        return [*owners_of(self.loader), itself if has_state(itself) else Held(itself)]

    @property
    def reading_owners(self) -> list[Any]:
        """Who draws random numbers while samples are read: the same, read once more."""
        return []

    def to(self, device: torch.device) -> LoaderSource:
        """Move each batch to `device`."""
        self._device = None if device.type == "cpu" else device
        return self

    def served(self) -> list[int]:
        """Return no sample numbers: a loader does not tell them."""
        return []

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return no sample numbers: the order is the loader's."""
        return []

    def close(self) -> None:
        """Let go of nothing: a user's loader keeps its workers as it was told to."""

    def _processes(self, batches: Any) -> Iterable[Any]:
        """Return the worker processes behind an iterator."""
        return getattr(batches, "_workers", ())

    def _placed(self, batches: Iterator[Any]) -> Iterator[Any]:
        try:
            for first in batches:
                yield from self._prepared(first, batches)
                return  # some loaders begin anew when asked again
        except (RuntimeError, OSError, EOFError) as error:
            died = self._dead(batches) or dead_worker(error)
            if not died:
                raise
            of = f" of {self.name} died (num_workers={self.worker_count})"
            raise DataError(worker_died(died, of)) from error

    def _dead(self, batches: Any) -> str:
        """Return which workers behind an iterator died, "" for none."""
        for _ in range(3):
            with suppress(RuntimeError):  # torch's handler of SIGCHLD raises one wherever it comes
                return _died(self._processes(batches))
        return ""

    def _prepared(self, first: Any, others: Iterator[Any]) -> Iterable[Any]:
        """Turn arrays into tensors, move them, and copy what may change, where there is a need."""
        batches: Iterable[Any] = chain((first,), others)
        if not self._collates:
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


def _died(processes: Iterable[Any]) -> str:
    """Return pid and signal of those of a DataLoader's workers that died, "" for none.

    Its own error depends on what it was doing at that moment: a lost connection tells no more.
    """
    workers = {worker.sentinel: worker for worker in processes}
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


def _iterated(loader: Iterable[Any]) -> Iterator[Any]:
    """Begin to iterate with the first batch, not before."""
    yield from loader


def length(thing: Any) -> int | None:
    """Return how many entries `thing` has, None where it does not tell."""
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
