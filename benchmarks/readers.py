"""Measure readers from disk: the time of an epoch beside a loop by hand, and the memory of a fit.

    python benchmarks/readers.py              # writes a file of 2 GB to --folder, ten minutes
    python benchmarks/readers.py --megabytes 200

Both sides read the same data in the same way, train the same net with the same optimizer, and take
turns epoch by epoch, on one thread. The ratio is that of the medians of the turns.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fitorch import KerasModel
from fitorch.callbacks import Callback

COLUMNS = 256
BATCH = 256
ROWS = 40_000  # in files whose epochs are timed
Batches = Iterable[tuple[Tensor, Tensor]]


class Decoded(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that takes some tens of microseconds for a sample, as decoding does."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.linspace(-1, 1, COLUMNS).mul_(index % 17).sin_()
        return x, x[:1]


class Epochs(Callback):
    """Lets the loop by hand take its turn after each epoch, and keeps the seconds of both."""

    def __init__(self, by_hand: Callable[[], float]) -> None:
        super().__init__()
        self.by_hand, self.seconds = by_hand, list[float]()

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        """Run an epoch by hand."""
        self.seconds.append(self.by_hand())


class Anonymous(Callback):
    """Keeps the most memory that this process had for itself, without pages of files, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.most = anonymous(), 0

    def on_train_batch_end(self, batch: int, logs: Any) -> None:
        """Look at the memory."""
        self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Return the memory of this process that is no page of a file, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def net() -> nn.Module:
    """Return a small perceptron."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, 1))


def by_hand(batches: Callable[[], Batches]) -> Callable[[], float]:
    """Return a function that trains an epoch with a loop by hand and returns its seconds."""
    trained = net()
    optimizer = torch.optim.Adam(trained.parameters(), fused=True)
    loss_fn = nn.MSELoss()

    def epoch() -> float:
        began = time.perf_counter()
        trained.train()
        loss_sum, samples = torch.zeros(()), 0
        for x, y in batches():
            loss = loss_fn(trained(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss_sum += loss.detach() * len(x)
            samples += len(x)
        (loss_sum / samples).item()
        return time.perf_counter() - began

    return epoch


def compare(name: str, data: Any, batches: Callable[[], Batches], turns: int, **fit: Any) -> None:
    """Print the seconds of an epoch of fit and of the loop by hand, and their ratio."""
    turn = by_hand(batches)
    turn()  # starts the workers of the loader, and fills the caches
    epochs = Epochs(turn)
    model = KerasModel(net(), "mse", optimizer="adam")
    frame = model.fit(data, epochs=turns + 1, callbacks=[epochs], verbose=0, **fit)
    mine = statistics.median(frame["seconds"].iloc[1:])
    theirs = statistics.median(epochs.seconds[1:])
    print(f"| {name} | {mine:.3f} | {theirs:.3f} | {mine / theirs:.3f} |", flush=True)


def sorted_blocks(x: Any, y: Any, *, shuffle: bool) -> Callable[[], Batches]:
    """Return what reads two arrays on disk by batch: the rows of each batch in sorted order."""

    def batches() -> Batches:
        order = torch.randperm(x.shape[0]).numpy() if shuffle else np.arange(x.shape[0])
        for begin in range(0, x.shape[0], BATCH):
            index = order[begin : begin + BATCH]
            if shuffle:
                unique, back = np.unique(index, return_inverse=True)
                yield torch.from_numpy(x[unique][back]), torch.from_numpy(y[unique][back])
            else:
                places = slice(begin, begin + BATCH)
                yield torch.from_numpy(x[places]), torch.from_numpy(y[places])

    return batches


def filled(x: Any, y: Any) -> None:
    """Fill two arrays on disk, a block at a time."""
    generator = np.random.default_rng(0)
    for begin in range(0, x.shape[0], 8192):
        block = generator.random((min(8192, x.shape[0] - begin), COLUMNS), np.float32)
        x[begin : begin + len(block)] = block
        y[begin : begin + len(block)] = block.sum(1, keepdims=True)


def h5py_arrays(folder: Path, rows: int) -> tuple[Any, Any]:
    """Return two datasets of a new HDF5 file, one without chunks."""
    import h5py

    file = h5py.File(folder / f"{rows}.h5", "w")
    x = file.create_dataset("x", (rows, COLUMNS), "float32")
    y = file.create_dataset("y", (rows, 1), "float32")
    filled(x, y)
    return x, y


def zarr_arrays(folder: Path, rows: int) -> tuple[Any, Any]:
    """Return two arrays of zarr in chunks of 64 rows."""
    import zarr

    def made(name: str, columns: int) -> Any:
        path = str(folder / f"{rows}-{name}.zarr")
        return zarr.open(
            path, mode="w", shape=(rows, columns), dtype="float32", chunks=(64, columns)
        )

    x, y = made("x", COLUMNS), made("y", 1)
    filled(x, y)
    return x, y


def memory_maps(folder: Path, rows: int) -> tuple[Any, Any]:
    """Return two memory maps of float64, which fitorch converts."""
    x = np.memmap(folder / "x.bin", np.float64, "w+", shape=(rows, COLUMNS))
    y = np.memmap(folder / "y.bin", np.float64, "w+", shape=(rows, 1))
    filled(x, y)
    return x, y


def webdataset_shards(folder: Path, rows: int) -> str:
    """Write shards of NumPy arrays and return their pattern."""
    import webdataset

    generator = np.random.default_rng(0)
    shards = 4
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for number in range(rows // shards):
                x = generator.random(COLUMNS, np.float32)
                key = f"{shard}-{number}"
                writer.write({"__key__": key, "x.npy": x, "y.npy": x.sum(keepdims=True)})
    return str(folder / f"{{0..{shards - 1}}}.tar")


def memory(name: str, arrays: tuple[Any, Any]) -> None:
    """Print the memory that a fit adds, as a share of the data on disk."""
    size = sum(part.shape[0] * part.shape[1] * part.dtype.itemsize for part in arrays)
    model = KerasModel(net(), "mse", optimizer="adam")
    few = tuple(part[:4096] for part in arrays)
    model.fit(few, epochs=1, batch_size=BATCH, verbose=0)  # what a first fit loads is not data
    watch = Anonymous()
    model.fit(arrays, epochs=1, batch_size=BATCH, shuffle=False, callbacks=[watch], verbose=0)
    added = watch.most - watch.first
    print(f"| {name} | {size / 1e6:,.0f} | {added / 1e6:.1f} | {added / size:.2%} |", flush=True)


def compare_readers(folder: Path, turns: int) -> None:
    """Print the table of times."""
    import webdataset

    print("| reader | fit, s an epoch | by hand | ratio |\n|---|---|---|---|", flush=True)
    for name, make in (("h5py", h5py_arrays), ("zarr", zarr_arrays)):
        x, y = make(folder, ROWS)
        for shuffle in (False, True):
            batches = sorted_blocks(x, y, shuffle=shuffle)
            told = f"{name}, {'shuffled' if shuffle else 'in order'}"
            compare(told, (x, y), batches, turns, batch_size=BATCH, shuffle=shuffle)
    pattern = webdataset_shards(folder, ROWS // 2)

    def pipeline() -> Any:
        shards = webdataset.WebDataset(pattern, shardshuffle=False)
        return shards.decode().to_tuple("x.npy", "y.npy").batched(BATCH)

    for workers in (0, 2):
        kept = {"num_workers": workers, "persistent_workers": workers > 0}
        given, own = (webdataset.WebLoader(pipeline(), batch_size=None, **kept) for _ in range(2))
        told = f"webdataset's WebLoader, {workers} workers"
        compare(told, given, lambda own=own: own, turns, batch_size=None)  # type: ignore[misc]
    dataset = Decoded(ROWS)
    for workers in (0, 2):
        kept = {"num_workers": workers, "persistent_workers": workers > 0}
        loader = DataLoader(dataset, BATCH, shuffle=True, **kept)
        told = f"Dataset, {workers} workers"
        compare(told, dataset, lambda own=loader: own, turns, batch_size=BATCH, num_workers=workers)  # type: ignore[misc]
        mine = copy.copy(loader) if workers == 0 else DataLoader(dataset, BATCH, True, **kept)
        compare(f"DataLoader, {workers} workers", mine, lambda own=loader: own, turns)  # type: ignore[misc]


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the large files")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where files may be written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        compare_readers(folder, given.turns)
        print("\n| file | MB | added by fit, MB | share |\n|---|---|---|---|", flush=True)
        rows = given.megabytes * 1_000_000 // (4 * COLUMNS)
        for name, make, count in (
            ("h5py", h5py_arrays, rows),
            ("zarr", zarr_arrays, rows),
            ("memory map of float64", memory_maps, rows // 2),
        ):
            memory(name, make(folder, count))
            shutil.rmtree(folder)
            folder.mkdir()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
