"""What a fit costs grows with its samples and steps alone: neither with epochs nor with history."""

import contextlib
import gc
import io
import json
import subprocess
import sys
import time
from array import array

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import EarlyStopping
from fitorch.data.sources import Batching, as_source
from fitorch.history.history import History

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Watches:
    """Notes after some epochs how many blocks of memory Python holds, and after each the time."""

    def __init__(self, *epochs):
        self.epochs, self.held, self.times = epochs, [], array("d")

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.process_time())
        if epoch in self.epochs:
            gc.collect()
            self.held.append(sys.getallocatedblocks())


class Void(io.StringIO):
    """A file that keeps nothing."""

    def write(self, text):
        return len(text)


def fit_many(epochs, *callbacks, data=(X, Y), verbose="auto"):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(2, 1), "mse", {"mae": "mae"}, "sgd")
    patient = EarlyStopping("val_mae", patience=10**9)
    with contextlib.redirect_stdout(Void()):
        model.fit(
            data, (X, Y), epochs, patience=10**9, callbacks=[patient, *callbacks], verbose=verbose
        )
    return model


RESIDENT = """
import json, psutil, sys
sys.path[:0] = {paths}
import test_scale as t

class Resident:
    sizes = []
    def on_epoch_end(self, epoch, logs=None):
        if epoch in (300, {last}):
            self.sizes.append(psutil.Process().memory_info().rss)

t.fit_many({last} + 1, Resident())
print(json.dumps(Resident.sizes))
"""


def in_a_new_process(program, **values):
    """Run `program`, and return what it prints as JSON."""
    paths = [str(__file__).rpartition("/")[0]]
    text = program.format(paths=paths, **values)
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_thousand_epochs_keep_nothing_but_their_row():
    watch = Watches(100, 2100)
    fit_many(2101, watch, verbose=0)  # the display may have lines to write yet
    before, after = watch.held
    assert after - before < 1000  # floats, too, would be thousands; columns grow in place


@pytest.mark.slow
def test_two_thousand_epochs_take_half_a_megabyte_of_the_machine():
    before, after = in_a_new_process(RESIDENT, last=2300)
    assert after - before < 0.5e6


@pytest.mark.slow
def test_twenty_thousand_epochs_take_five_megabytes_of_the_machine():
    before, after = in_a_new_process(RESIDENT, last=20_000)
    assert after - before < 5e6


@pytest.mark.slow
def test_late_epochs_take_as_long_as_early_ones():
    watch = Watches()
    fit_many(6000, watch)
    early = watch.times[1500] - watch.times[500]
    late = watch.times[-1] - watch.times[-1001]
    assert late < 2 * early


def test_a_row_of_the_history_costs_the_same_however_many_there_are():
    history, looked = History(), []

    class Column(list):
        """A column that tells who goes through it."""

        def __iter__(self):
            looked.append(len(self))
            return super().__iter__()

    for epoch in range(50):
        history.on_epoch_begin(epoch)
        history.on_epoch_end(epoch, {"train_loss": 0.5})
        if epoch == 0:
            history._complete()
            history._columns = {name: Column(v) for name, v in history._columns.items()}
    assert len(history) == 50
    assert not looked


@pytest.mark.slow
def test_many_steps_hold_no_more_than_few():
    x = torch.randn(40_000, 2)
    held = []
    for samples in (400, 400, 40_000):  # the first to warm up
        watch = Watches(0)
        blocks = sys.getallocatedblocks()
        fit_many(1, watch, data=(x[:samples], x[:samples].sum(1, keepdim=True)))
        held.append(watch.held[0] - blocks)
    assert held[2] - held[1] < 500  # of 1,250 steps


# Linear in samples


class Counts(Dataset):
    def __init__(self, samples):
        self.samples, self.reads = samples, 0

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        self.reads += 1
        return X[index % 8], Y[index % 8]


@pytest.mark.parametrize("samples", [100, 1000])
def test_reads_each_sample_once_an_epoch_and_steps_once_a_batch(samples):
    data, steps = Counts(samples), []

    class Steps:
        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)

    KerasModel(nn.Linear(2, 1), "mse").fit(
        data, epochs=3, batch_size=10, callbacks=[Steps()], verbose=0
    )
    assert data.reads == 3 * samples
    assert len(steps) == 3 * samples // 10


@pytest.mark.parametrize("kind", ["tensors", "loader", "loader with a generator"])
def test_gathers_each_sample_once(kind, monkeypatch):
    gathered = []
    pick = torch.index_select

    def counting(tensor, dim, index):
        gathered.append(len(index))
        return pick(tensor, dim, index)

    monkeypatch.setattr("fitorch.data.gathering._pick", counting)
    x = torch.arange(5000.0).unsqueeze(1)
    generator = torch.Generator() if kind.endswith("generator") else None
    data = {"tensors": (x,)}.get(
        kind,
        DataLoader(TensorDataset(x), 7, sampler=RandomSampler(x, generator=generator)),
    )
    source = as_source(data, "train_data", Batching(7, shuffle=True))
    seen = torch.cat([batch[0] for batch in source.batches(0)])
    assert sum(gathered) == 5000
    assert torch.equal(seen.sort(0).values, x)


# Memory of a pass

PEAK = """
import json, resource, sys, time, torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from fitorch.data.sources import Batching, as_source

x = torch.rand({rows}, 16)
data = TensorDataset(x)
own = {{"generator": torch.Generator()}} if {own} else {{}}
if {loader}:
    data = DataLoader(data, 1024, sampler=RandomSampler(data, **own))
source = as_source(data, "train_data", Batching(1024, shuffle=True))
next(as_source((x[:4096],), "train_data", Batching(1024)).batches(0))

def resident():  # the most so far, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = resident()
for number in range(2):
    for batch in source.batches(number):
        pass
print(json.dumps([resident() - before, x.numel() * 4]))
"""


def extra_memory(rows, **kinds):
    settings = {"own": False, "loader": False, **kinds}
    more, size = in_a_new_process(PEAK, rows=rows, **settings)
    return more / size


LOADERS = [{}, {"loader": True}, {"loader": True, "own": True}]


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
@pytest.mark.parametrize("kinds", LOADERS, ids=["dataset", "loader", "generator"])
def test_passes_over_a_million_rows_take_a_fifth_more_than_the_data(kinds):
    assert extra_memory(1_000_000, **kinds) < 0.2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
@pytest.mark.parametrize("kinds", LOADERS, ids=["dataset", "loader", "generator"])
def test_passes_over_ten_million_rows_take_a_fifth_more_than_the_data(kinds):
    assert extra_memory(10_000_000, **kinds) < 0.2
