"""num_workers="auto": workers start only if reading is slow and the dataset can be copied."""

import functools
import multiprocessing
import os
import random
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from data.reading import N, Samples, fit
from fitorch.data import dataset as samples
from fitorch.data import pace, workers
from fitorch.data.sampling import Order


class Slow(Samples):
    """Takes as long as a disk does, so that workers pay."""

    def __getitem__(self, index):
        time.sleep(0.001)
        return super().__getitem__(index)


@pytest.fixture
def eager(monkeypatch):
    """Let "auto" decide after a few milliseconds instead of a second, as if there were 2 CPUs."""
    monkeypatch.setattr(pace, "_PATIENCE", 0.004)
    monkeypatch.setattr(samples, "usable_cpus", lambda: 2)


def test_auto_begins_without_workers_and_starts_them_where_they_pay(eager, started, children):
    _, frame = fit(Slow(), "auto", epochs=3)
    assert started == [2]
    assert not children()
    assert frame.equals(fit(Samples(), 0, epochs=3)[1])


def test_auto_reads_each_sample_of_a_fast_dataset_here_and_once(eager, started):
    read = []

    class Counts(Samples):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    fit(Counts(), "auto")
    assert not started
    assert read == [
        i for epoch in (0, 1) for i in Order(N, 4, True, 5).permutation(epoch)[:].tolist()
    ]


class Holding(Slow):
    """Holds anything."""

    def __init__(self, thing=None):
        self.thing = thing


class Hiding(Holding):
    """Lets pickle see nothing of what it holds."""

    def __getstate__(self):
        return {}


class Draws(Slow):
    def __init__(self):
        self.cache = {}

    def __getitem__(self, index):
        self.cache[index] = index
        return super().__getitem__(index)


OPEN = []


def kept(thing):
    OPEN.append(thing)
    return thing


def opened():
    return kept(Path(os.devnull).open())


@pytest.fixture(autouse=True)
def files_closed():
    yield
    while OPEN:
        OPEN.pop().close()


UNSAFE = {
    "a lock": lambda: Holding(threading.Lock()),
    "an open file": lambda: Holding([opened()]),
    "a hidden file": lambda: Hiding(opened()),
    "what refuses to be copied": lambda: Holding(Refusing()),
    "a database": lambda: Holding({"connection": kept(sqlite3.connect(":memory:"))}),
    "a file in a closure": lambda: Holding(closing_over(opened())),
    "a generator": lambda: Holding(iter_of(3)),
    "torch's generator": lambda: Holding(torch.Generator()),
    "NumPy's generator": lambda: Holding(np.random.default_rng(0)),
    "Python's generator": lambda: Holding(random.Random(0)),
    "a device's tensor": lambda: Holding(torch.empty(2, device="meta")),
    "a cache": Draws,
    "a subset of one": lambda: Subset(Holding(threading.Lock()), range(N)),
}
SAFE = {
    "nothing": Slow,
    "a function of its own": lambda: Holding(lambda x: x),
    "a closure": lambda: Holding(closing_over(3)),
    "a partial": lambda: Holding(functools.partial(closing_over, 3)),
    "a method": lambda: Holding(Samples().__getitem__),
    "arrays": lambda: Holding([np.zeros(4), np.array([None, 3]), torch.zeros(3)]),
    "a net": lambda: Holding(nn.Linear(2, 2)),
    "a module": lambda: Holding(np),
    "a class": lambda: Holding(Slow),
    "hidden numbers": lambda: Hiding({"a": 3}),
    "a subset": lambda: Subset(Slow(), range(N)),
}


class Refusing:
    """Refuses to be pickled, as the datasets of h5py do."""

    def __getstate__(self):
        raise TypeError


def closing_over(thing):
    return lambda: thing


def iter_of(count):
    yield from range(count)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", UNSAFE.values(), ids=UNSAFE)
def test_auto_starts_no_workers_for_what_may_not_be_there_twice(make, eager, started):
    fit(make(), "auto", epochs=3)
    assert not started


@pytest.mark.parametrize("make", SAFE.values(), ids=SAFE)
def test_auto_starts_workers_for_what_copies_well(make, eager, started):
    fit(make(), "auto", epochs=2)
    assert started == [2]


def test_auto_starts_no_workers_for_batches_of_a_device():
    batch = [torch.empty(2, device="meta")]
    assert workers.can_use_workers(Slow(), [torch.zeros(2)], 2)
    assert not workers.can_use_workers(Slow(), batch, 2)


def test_auto_starts_no_workers_where_shared_memory_is_short(monkeypatch, tmp_path):
    usage = namespace(free=1000)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    assert workers.can_use_workers(Slow(), [torch.zeros(10)], 2)
    assert not workers.can_use_workers(Slow(), [torch.zeros(100)], 2)


def namespace(**values):
    return type("Namespace", (), values)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_auto_starts_no_workers_where_the_script_would_run_again(monkeypatch, method):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: method)
    assert not workers.can_use_workers(Slow(), [torch.zeros(2)], 2)


def test_asking_for_the_start_method_does_not_settle_it(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: None)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn", "fork"])
    assert not workers.can_use_workers(Slow(), [torch.zeros(2)], 2)


def test_looks_through_no_dataset_of_endless_size(monkeypatch):
    monkeypatch.setattr(workers, "_MAX_INSPECTED_BYTES", 10_000)
    assert not workers.can_use_workers(
        Holding([str(i) for i in range(10_000)]), [torch.zeros(2)], 2
    )


PACES = {
    "reading is cheap": ((100, 0.1, 1.0), 8, 1, 0),
    "reading hardly counts": ((10, 1.0, 9.0), 8, 1, 0),
    "half of the time": ((10, 1.0, 1.0), 8, 1, 2),
    "reading is all": ((10, 1.0, 0.001), 8, 1, 8),
    "reading is all, many CPUs": ((10, 1.0, 0.001), 96, 1, 8),
    "three times the work": ((10, 3.0, 1.0), 8, 1, 4),
    "two CPUs": ((10, 3.0, 0.1), 2, 1, 2),
    "one CPU": ((10, 3.0, 1.0), 1, 1, 0),
    "the work keeps all CPUs busy": ((10, 1.0, 4.0), 8, 8, 0),
}


@pytest.mark.parametrize(("times", "cpus", "threads", "expected"), PACES.values(), ids=PACES)
def test_as_many_workers_as_keep_up(times, cpus, threads, expected):
    assert pace.Pace(*times).workers(1000, cpus, threads) == expected


def test_no_workers_where_handing_a_batch_over_costs_as_much_as_reading_it():
    times = pace.Pace(10, 0.1, 0.1)  # 10 ms each
    assert times.workers(10**6, 8) == 2
    assert times.workers(10**7, 8) == 0
