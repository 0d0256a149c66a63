"""Worker processes that read samples: their number, whether they are safe, start and end."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from fitorch.devices.accelerators import HOST, is_host
from fitorch.internals.torch import shut_down_workers, workers_of
from fitorch.tree import byte_count, leaves

from .plain_attributes import content_digest

_MAX_INSPECTED_BYTES = 2**29  # of a dataset, without its arrays

_GRACE = 30.0  # seconds that a worker process runs after SIGTERM, as torchrun waits

_PREFETCH = 2  # batches in advance, per worker

Attributes = list[tuple[Any, int]]


class WorkerPool:
    """Worker processes that read the batches of a dataset, and persist over several passes.

    Args:
        reader: An object whose `__getitems__(request)` reads a batch; workers get a copy.
        settings: Further arguments of DataLoader, such as those of a user's loader.
    """

    def __init__(self, reader: Any, settings: Mapping[str, Any] | None = None) -> None:
        self._reader = reader
        self._settings = dict(settings or {})
        self._loader: DataLoader[Any] | None = None
        self._batches: Iterator[Any] | None = None  # of the current pass
        self._requests: Iterator[Any] = iter(())
        self._dataset_attributes: Attributes = []
        self._content = ""  # a digest of what the processes have copies of
        self.count = 0
        self.pinned = False

    def __iter__(self) -> Iterator[Any]:  # the pool is the batch sampler of its DataLoader
        return self._requests

    def read(self, requests: Iterator[Any]) -> Iterator[Any]:
        """Return the batches for `requests`, in their order, and start processes if necessary.

        Processes are restarted if the dataset has changed, because they have copies of it.
        """
        dataset = self._reader.dataset
        # The processes hold copies, which do not follow a change of the dataset.
        content = content_digest(dataset) if self.count else ""
        if self._loader is not None and (
            content != self._content
            or state_differs(self._dataset_attributes, attributes_of(dataset))
        ):
            self.close()
        if self._loader is None:
            self._dataset_attributes, self._content = attributes_of(dataset), content
            self._loader = self._start()
        # This is set before the iterator is created, which reads the first requests at once.
        self._requests = requests
        # torch's loader draws on the default device, but its generator is one of the CPU. Workers
        # inherit the context, in which small operations take twice the time: not without need.
        with nullcontext() if is_host(torch.empty(0)) else HOST:
            self._batches = iter(self._loader)
        return self._batches

    @property
    def processes(self) -> Iterable[Any]:
        """The running processes."""
        return workers_of(self._batches)

    def close(self) -> None:
        """End the processes."""
        batches = self._batches
        self._loader, self._batches, self._requests, self._dataset_attributes = (
            None,
            None,
            iter(()),
            [],
        )
        shut_down_workers(batches)

    def _start(self) -> DataLoader[Any]:
        settings: dict[str, Any] = {"pin_memory": self.pinned, **self._settings}
        if self.count:
            settings = {"persistent_workers": True, "prefetch_factor": _PREFETCH, **settings}
            begin = WorkerInit(settings.pop("worker_init_fn", None))
            settings["worker_init_fn"] = begin
        return DataLoader(
            self._reader,
            batch_sampler=self,
            collate_fn=_only,  # the reader collates, with the random numbers of the batch
            num_workers=self.count,
            generator=torch.Generator(HOST).manual_seed(0),  # so that the global one is not used
            **settings,
        )


def _only(batches: list[Any]) -> Any:
    """Return the batch that a reader has put into a list."""
    return batches[0]


class WorkerInit:
    """Initialization of a worker process.

    Workers ignore Ctrl-C, which the fit handles. After SIGTERM, which schedulers send to every
    process, they run long enough for the fit to save a checkpoint.

    Args:
        user_init: The user's `worker_init_fn`, or None; `torch.utils.data.get_worker_info()` has
            the user's dataset when it is called.
    """

    def __init__(self, user_init: Callable[[int], Any] | None) -> None:
        self._user_init = user_init

    def __call__(self, number: int) -> None:
        """Initialize worker `number`."""
        # A terminal sends Ctrl-C to the workers too; the fit ends them after a last checkpoint.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _end_later)
        info: Any = get_worker_info()
        # torch's WorkerInfo refuses assignments; the user's function expects the dataset itself.
        object.__setattr__(info, "dataset", info.dataset.dataset)
        if self._user_init is not None:
            self._user_init(number)


def _end_later(_number: int, _frame: FrameType | None) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, _GRACE)  # SIGALRM ends the process


def loader_options(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the settings of a loader for reading, without dataset and order."""
    names = ["pin_memory", "timeout", "pin_memory_device"]
    if loader.num_workers:
        names += ["worker_init_fn", "prefetch_factor", "persistent_workers"]
        names += ["multiprocessing_context"]
    settings = {name: getattr(loader, name) for name in names}
    if hasattr(loader, "in_order"):  # torch 2.6
        settings["in_order"] = loader.in_order
    return settings


def usable_cpus() -> int:
    """Return the number of CPUs for this process: an even part of those of the machine."""
    known = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def can_use_workers(dataset: object, batch: object, count: int) -> bool:
    """Return whether `count` workers can be started without a request by the user.

    Processes must be forked: otherwise, the script would run again in each of them. Batches must be
    on the CPU, and shared memory must have room for several of them. The dataset must not contain
    objects that break if they exist twice: open files and connections, locks, random generators.
    """
    methods = multiprocessing.get_all_start_methods()
    method = multiprocessing.get_start_method(allow_none=True) or methods[0]
    # Daemonic processes cannot have children.
    if method != "fork" or multiprocessing.current_process().daemon:
        return False
    if any(not is_host(leaf) for leaf in leaves(batch)):
        return False
    shared_memory = Path("/dev/shm")
    room = shutil.disk_usage(shared_memory).free if shared_memory.is_dir() else math.inf
    # The room is twice that of the prefetched batches and of one in work, for each worker.
    return 2 * (_PREFETCH + 1) * count * byte_count(batch) <= room and _survives_copy(dataset)


def attributes_of(dataset: object) -> Attributes:
    """Return the attributes of a dataset and of the objects in it, with the containers' lengths."""
    attributes: Attributes = []
    seen: set[int] = set()
    pending: list[Any] = [dataset]
    # The limit is for datasets of many objects: the inspection must not take longer than reading.
    while pending and len(attributes) < 10_000:
        thing = pending.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, Tensor)):
            continue
        seen.add(id(thing))
        for value in getattr(thing, "__dict__", {}).values():
            sized = isinstance(value, (list, dict, set))
            attributes.append((value, len(value) if sized else 0))
            pending.append(value)
            if isinstance(value, (list, tuple)) and len(value) < 100:  # transforms, datasets
                pending.extend(value)
    return attributes


def state_differs(before: Attributes, after: Attributes) -> bool:
    """Return whether an attribute was replaced, or the length of a container changed."""
    return len(before) != len(after) or any(
        old is not new or length != now
        for (old, length), (new, now) in zip(before, after, strict=True)
    )


class _Inspector(pickle.Pickler):
    """Pickler that raises an error if an object contains something that must not exist twice."""

    def persistent_id(self, thing: object) -> str | None:
        """Skip objects that can be copied, and raise an error for those that cannot."""
        on_device = isinstance(thing, Tensor) and not is_host(thing)
        if on_device or isinstance(thing, _GENERATORS):
            message = f"a {type(thing).__name__} can't be in two processes"
            raise pickle.PicklingError(message)
        numbers = isinstance(thing, np.ndarray) and not thing.dtype.hasobject
        return "" if numbers or isinstance(thing, (Tensor, type, ModuleType)) else None

    def reducer_override(self, thing: object) -> Any:
        """Inspect closures, and attributes that `__getstate__` hides: a fork would share them."""
        if isinstance(thing, FunctionType):
            # A closure may hold what an attribute could hold, such as an open file.
            return list, ([cell.cell_contents for cell in thing.__closure__ or ()],)
        state = getattr(type(thing), "__getstate__", None)
        if state is not getattr(object, "__getstate__", None) and hasattr(thing, "__dict__"):
            thing.__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # raises what the object itself raises
            return list, ([vars(thing)],)
        return NotImplemented


_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


class _Sink:
    """A file that discards its content, with a limit on its size."""

    def __init__(self) -> None:
        self._written = 0

    def write(self, data: bytes) -> int:
        self._written += len(data)
        if self._written > _MAX_INSPECTED_BYTES:
            raise OverflowError
        return len(data)


def _survives_copy(dataset: object) -> bool:
    try:
        _Inspector(_Sink()).dump(dataset)
    except Exception:  # any error means that the dataset cannot be copied
        return False
    return True
