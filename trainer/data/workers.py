"""Worker processes that read samples: when they pay, when they are safe, how they begin and end."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from fitorch.internals.torch import shut_down_workers, workers_of
from fitorch.tree import byte_count, leaves

MOST = 8

_PATIENCE = 1.0  # seconds of reading before workers are thought of

_WORTH = 0.8  # of the time that a batch took, at most, must be what it takes with workers

_LEAST = 0.002  # seconds that reading a batch must take: handing one over takes a fraction of it

_PER_BYTE = 2e-9  # seconds, for batches so large that handing them over counts

_LARGEST = 2**29  # bytes of a dataset, without its arrays, that are looked through

_GRACE = 30.0  # seconds that a worker process outlives SIGTERM, as torchrun waits

_PREFETCH = 2  # batches ahead, for each worker

Held = list[tuple[Any, int]]


@dataclass(slots=True)
class Pace:
    """How long reading takes, beside all that happens between two batches.

    Args:
        batches: Batches that were read.
        reading: Seconds that they took.
        working: Seconds between them.
    """

    batches: int = 0
    reading: float = 0.0
    working: float = 0.0

    @property
    def due(self) -> bool:
        """Whether so much time went into reading that workers should be thought of."""
        return self.reading >= _PATIENCE

    def add(self, reading: float, working: float) -> None:
        """Count a batch in."""
        self.batches += 1
        self.reading += reading
        self.working += working

    def workers(self, size: int, cpus: int, threads: int = 1) -> int:
        """Return how many workers would pay, 0 where none would.

        As many are meant as keep up with the work. They pay where a batch would then take at most
        four fifths of the time: as long as a worker's share of the reading, or the work, or all of
        both shared out over the CPUs, whichever is longest.

        Args:
            size: Bytes in a batch.
            cpus: CPUs that may be used.
            threads: CPUs that the work keeps busy.
        """
        read, work = self.reading / self.batches, self.working / self.batches
        if read < _LEAST + _PER_BYTE * size:
            return 0
        count = min(math.ceil(min(read / max(work, 1e-9), MOST)) + 1, cpus, MOST)
        expected = max(read / count, work, (read + threads * work) / cpus)
        return count if expected <= _WORTH * (read + work) else 0


class WorkerPool:
    """The processes that read batches of a dataset, kept from one pass to the next.

    Args:
        reader: Reads a batch when it is asked `__getitems__(request)`; it is copied to the workers.
        settings: What DataLoader takes beside it, as a user's loader has it.
    """

    def __init__(self, reader: Any, settings: Mapping[str, Any] | None = None) -> None:
        self._reader = reader
        self._settings = dict(settings or {})
        self._loader: DataLoader[Any] | None = None
        self._batches: Any = None  # of the pass that is read
        self._requests: Iterator[Any] = iter(())
        self._held: Held = []
        self.count = 0
        self.pinned = False

    def __iter__(self) -> Iterator[Any]:  # as torch's DataLoader asks its batch sampler
        return self._requests

    def read(self, requests: Iterator[Any]) -> Any:
        """Give the batches for `requests`, in their order; begin processes where there are none.

        They begin anew where the dataset was changed since: they hold a copy of it.
        """
        if self._loader is not None and state_differs(self._held, held_by(self._reader.dataset)):
            self.close()
        if self._loader is None:
            self._held = held_by(self._reader.dataset)
            self._loader = self._start()
        self._requests = requests
        self._batches = iter(self._loader)
        return self._batches

    @property
    def processes(self) -> Iterable[Any]:
        """The processes that run."""
        return workers_of(self._batches)

    def close(self) -> None:
        """End the processes."""
        batches = self._batches
        self._loader, self._batches, self._requests, self._held = None, None, iter(()), []
        shut_down_workers(batches)

    def _start(self) -> DataLoader[Any]:
        settings: dict[str, Any] = {"pin_memory": self.pinned, **self._settings}
        if self.count:
            settings = {"persistent_workers": True, "prefetch_factor": _PREFETCH, **settings}
            begin = WorkerStart(settings.pop("worker_init_fn", None))
            settings["worker_init_fn"] = begin
        return DataLoader(
            self._reader,
            batch_sampler=self,
            num_workers=self.count,
            generator=torch.Generator().manual_seed(0),  # the global one must not be drawn from
            **settings,
        )


class WorkerStart:
    """What a worker process does first.

    It leaves Ctrl-C to the fit, and outlives SIGTERM, which schedulers send to every process, long
    enough for the fit to end as it wants.

    Args:
        own: The user's `worker_init_fn`, or None; it finds the user's dataset in
            `torch.utils.data.get_worker_info()`.
    """

    def __init__(self, own: Callable[[int], Any] | None) -> None:
        self._own = own

    def __call__(self, number: int) -> None:
        """Begin as worker `number`."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _end_later)
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.dataset)
        if self._own is not None:
            self._own(number)


def _end_later(_number: int, _frame: Any) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, _GRACE)  # SIGALRM ends the process


def loader_options(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return how a loader reads, beside what it reads in which order."""
    names = ["collate_fn", "pin_memory", "timeout", "pin_memory_device"]
    if loader.num_workers:
        names += ["worker_init_fn", "prefetch_factor", "persistent_workers"]
        names += ["multiprocessing_context"]
    settings = {name: getattr(loader, name) for name in names}
    if hasattr(loader, "in_order"):  # torch 2.6
        settings["in_order"] = loader.in_order
    return settings


def usable_cpus() -> int:
    """Return how many CPUs this process may use, an even part where several share the machine."""
    known = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def may_share(dataset: Any, batch: Any, count: int) -> bool:
    """Say whether `count` workers may be started without anybody having asked for them.

    Processes must be forked: elsewhere a script would run once more in each of them. Batches must
    be of the CPU, and fit in shared memory several times. Nothing in the dataset may break or lose
    its meaning by being there twice: open files and connections, locks, random generators.
    """
    methods = multiprocessing.get_all_start_methods()
    method = multiprocessing.get_start_method(allow_none=True) or methods[0]
    if method != "fork" or multiprocessing.current_process().daemon:
        return False
    if any(leaf.device.type != "cpu" for leaf in leaves(batch)):
        return False
    shared = Path("/dev/shm")
    room = shutil.disk_usage(shared).free if shared.is_dir() else math.inf
    return 2 * (_PREFETCH + 1) * count * byte_count(batch) <= room and _may_be_copied(dataset)


def held_by(dataset: Any) -> Held:
    """Return what a dataset and the objects in it hold: each attribute, and how long it is."""
    found: Held = []
    seen: set[int] = set()
    waiting = [dataset]
    while waiting and len(found) < 10_000:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, Tensor)):
            continue
        seen.add(id(thing))
        for value in getattr(thing, "__dict__", {}).values():
            sized = isinstance(value, (list, dict, set))
            found.append((value, len(value) if sized else 0))
            waiting.append(value)
            if isinstance(value, (list, tuple)) and len(value) < 100:  # transforms, datasets
                waiting.extend(value)
    return found


def state_differs(before: Held, after: Held) -> bool:
    """Say whether an attribute was set, or a container became longer or shorter."""
    return len(before) != len(after) or any(
        old is not new or length != now
        for (old, length), (new, now) in zip(before, after, strict=True)
    )


class _Inspector(pickle.Pickler):
    """Looks through all that an object holds, as pickle does, and leaves out what copies well."""

    def persistent_id(self, thing: Any) -> str | None:
        """Leave out what copies well; refuse what must not be there twice."""
        on_device = isinstance(thing, Tensor) and thing.device.type != "cpu"
        if on_device or isinstance(thing, _STREAMS):
            message = f"a {type(thing).__name__} can't be in two processes"
            raise pickle.PicklingError(message)
        numbers = isinstance(thing, np.ndarray) and not thing.dtype.hasobject
        return "" if numbers or isinstance(thing, (Tensor, type, ModuleType)) else None

    def reducer_override(self, thing: Any) -> Any:
        """Look into closures, and at what an object hides from pickle: a fork would share it."""
        if isinstance(thing, FunctionType):
            return list, ([cell.cell_contents for cell in thing.__closure__ or ()],)
        state = getattr(type(thing), "__getstate__", None)
        if state is not getattr(object, "__getstate__", None) and hasattr(thing, "__dict__"):
            return list, ([vars(thing)],)
        return NotImplemented


_STREAMS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


class _Sink:
    """A file that keeps nothing, and is full at some point."""

    def __init__(self) -> None:
        self._written = 0

    def write(self, data: bytes) -> int:
        self._written += len(data)
        if self._written > _LARGEST:
            raise OverflowError
        return len(data)


def _may_be_copied(dataset: Any) -> bool:
    try:
        _Inspector(_Sink()).dump(dataset)
    except Exception:  # whatever a user's object raises: it does not like to be copied
        return False
    return True
