"""Measure what data costs: memory of a pass, the shuffle beside an epoch, time of a batch.

    python benchmarks/data.py                 # 10 million rows of 16 float32, two minutes
    python benchmarks/data.py --rows 1000000

Everything runs on one thread. A batch of each path is read, not trained on; beside our paths stands
torch's own DataLoader over the same data.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fitorch import KerasModel
from fitorch.data.sampling import Order
from fitorch.data.sources import Batching, as_source

COLUMNS = 16
LARGE, SMALL = 1024, 32  # samples in a batch of tensors, and of a dataset that is read one by one


class Single(Dataset[Any]):
    """A dataset that is asked for one sample after the other."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class Many(Single):
    """A dataset that is asked for a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        index = torch.tensor(indices)
        return list(zip(self.x[index], self.y[index], strict=True))


class Slow(Single):
    """A dataset that waits a millisecond for each sample, as for a disk."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.001)
        return super().__getitem__(index)


def peak() -> int:
    """Return the most memory that this process had so far, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(x: Tensor) -> float:
    """Return the peak memory of two shuffled passes, as a ratio to the data alone."""
    source = as_source(TensorDataset(x), "train_data", Batching(LARGE, shuffle=True))
    size = x.numel() * x.element_size()
    before = peak()
    for number in range(2):
        for _ in source.batches(number):
            pass
    return 1 + (peak() - before) / size


def shuffle(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the seconds of a permutation and of an epoch of a small net."""
    order = Order(len(x), LARGE, shuffle=True, seed=0)
    seconds = []
    for number in range(3):
        began = time.perf_counter()
        order.permutation(number)
        seconds.append(time.perf_counter() - began)
    net = nn.Sequential(nn.Linear(COLUMNS, 32), nn.ReLU(), nn.Linear(32, 1))
    frame = KerasModel(net, "mse").fit((x, y), epochs=2, batch_size=LARGE, verbose=0)
    return statistics.median(seconds), frame["seconds"].iloc[-1]


def per_batch(batches: Callable[[], Iterable[Any]], count: int, repeats: int = 5) -> float:
    """Return the microseconds of a batch, in the quickest of some passes."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in batches():
            pass
        seconds.append(time.perf_counter() - began)
    return min(seconds) / count * 1e6


def ours(data: Any, size: int, workers: int = 0) -> tuple[float, Callable[[], None]]:
    """Return the microseconds of a batch of ours, and what ends its workers."""
    source = as_source(data, "train_data", Batching(size, shuffle=True, num_workers=workers))
    assert source.steps is not None
    if workers:
        list(source.batches(0))  # to start them
    return per_batch(lambda: source.batches(0), source.steps), source.close


def row(name: str, data: Any, size: int, workers: int = 0) -> None:
    """Print ours beside torch's DataLoader."""
    dataset = TensorDataset(*data) if isinstance(data, tuple) else data
    dataset = data.dataset if isinstance(data, DataLoader) else dataset
    given = {"num_workers": workers, "persistent_workers": workers > 0}
    loader: Any = DataLoader(dataset, size, shuffle=True, **given)
    if workers:
        list(loader)
    theirs = per_batch(lambda: loader, len(loader))
    mine, close = ours(data, size, workers)
    close()
    print(f"| {name} | {size} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |", flush=True)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.rand(rows, COLUMNS)
    print(f"{rows:,} rows of {COLUMNS} float32, {x.numel() * 4 / 1e6:.0f} MB\n")
    print(f"Peak memory of shuffled passes / the data: {memory(x):.3f}")
    y = x.sum(1, keepdim=True)
    permutation, epoch = shuffle(x, y)
    share = permutation / epoch
    print(f"Shuffle: {permutation:.2f} s of an epoch of {epoch:.1f} s, {share:.1%}\n")
    print("| data | batch size | us per batch | DataLoader | ratio |\n|---|---|---|---|---|")
    some = x[:200_000].clone(), y[:200_000].clone()
    few, fewer = (x[:16_384].clone(), y[:16_384].clone()), (x[:1024].clone(), y[:1024].clone())
    row("tensors", some, LARGE)
    row("TensorDataset in a DataLoader", DataLoader(TensorDataset(*some), LARGE), LARGE)
    row("Dataset with __getitem__", Single(*few), SMALL)
    row("Dataset with __getitems__", Many(*few), SMALL)
    row("Dataset with __getitem__, 2 workers", Single(*few), SMALL, workers=2)
    row("slow Dataset (1 ms a sample)", Slow(*fewer), SMALL)
    row("slow Dataset, 2 workers", Slow(*fewer), SMALL, workers=2)


if __name__ == "__main__":
    main()
