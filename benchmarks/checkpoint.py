"""Measure what checkpoints cost: to write and read one, and beside an epoch of training.

    python benchmarks/checkpoint.py                   # three minutes, 2 GB of disk
    python benchmarks/checkpoint.py --folder /mnt/nfs # on another disk

Everything runs on one thread. Beside ours stand `torch.save` followed by fsync, and `torch.load`,
which verify nothing. Ratios are taken within a turn, then the median.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from workloads import WORKLOADS, Workload

from fitorch import KerasModel
from fitorch.checkpoint import CheckpointStore, pack

MEGABYTES = (1, 50, 500)
TENSORS = 20


def timed(action: Callable[[], Any]) -> float:
    """Return the milliseconds that an action takes."""
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def torch_save(state: dict[str, Tensor], path: Path) -> None:
    """Write a file as a careful script does, and wait for the disk."""
    torch.save(state, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def files(folder: Path, megabytes: int, turns: int) -> dict[str, list[float]]:
    """Return the milliseconds of each way to write and to read so much, one per turn."""
    size = megabytes * 10**6 // 4 // TENSORS
    state = {str(number): torch.randn(size) for number in range(TENSORS)}
    store = CheckpointStore(folder / f"ours-{megabytes}", keep=1)
    path = folder / f"theirs-{megabytes}.pt"
    seconds: dict[str, list[float]] = {}

    def snapshot() -> None:
        for part in pack({"model": state}).values():
            part.copied()

    ways: dict[str, Callable[[], Any]] = {
        "save": lambda: store.save(turn, {"model": state}),
        "torch.save": lambda: torch_save(state, path),
        "snapshot": snapshot,  # what async_save waits for
        "load": lambda: store.list()[0].read(),
        "torch.load": lambda: torch.load(path),
        "copy": lambda: copy.deepcopy(state),
    }
    for turn in range(turns + 1):
        for name, way in ways.items():
            milliseconds = timed(way)
            if turn:  # the first one warms up
                seconds.setdefault(name, []).append(milliseconds)
    return seconds


def epochs(workload: Workload, folder: Path, turns: int, count: int) -> dict[str, list[float]]:
    """Return the milliseconds of an epoch: without checkpoints, with one, with one in a thread."""
    found: dict[str, list[float]] = {}
    ways: dict[str, dict[str, Any]] = {
        "none": {},
        "each epoch": {"ckpt_path": folder / "run"},
        "in a thread": {"ckpt_path": folder / "thread", "async_save": True},
    }
    nets = {name: copy.deepcopy(workload.net) for name in ways}
    models = {
        name: KerasModel(
            net, workload.loss_fn, {"acc": "acc"}, torch.optim.Adam(net.parameters(), workload.lr)
        )
        for name, net in nets.items()
    }
    for turn in range(turns + 1):
        for name, options in ways.items():
            milliseconds = timed(lambda name=name, options=options: models[name].fit(
                workload.train, workload.val, epochs=count, batch_size=workload.batch_size,
                monitor="val_loss", seed=0, verbose=0, **options,
            ))  # fmt: skip
            if turn:
                found.setdefault(name, []).append(milliseconds / count)
    return found


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the median of the ratios within turns, and its quartiles."""
    found = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def report_files(folder: Path, turns: int) -> None:
    """Print what a checkpoint costs, by its size."""
    print("| MB | save ms | / torch.save + fsync | load ms | / torch.load | snapshot / copy |")
    print("|---|---|---|---|---|---|")
    for megabytes in MEGABYTES:
        found = files(folder, megabytes, turns)
        print(
            f"| {megabytes} | {statistics.median(found['save']):.1f} "
            f"| {ratio(found['save'], found['torch.save'])} "
            f"| {statistics.median(found['load']):.1f} "
            f"| {ratio(found['load'], found['torch.load'])} "
            f"| {ratio(found['snapshot'], found['copy'])} |"
        )


def report_epochs(folder: Path, names: list[str], turns: int) -> None:
    """Print what a checkpoint after each epoch adds to it."""
    print("\n| workload | epoch ms | with a checkpoint | written in a thread |")
    print("|---|---|---|---|")
    for name in names:
        found = epochs(WORKLOADS[name](), folder / name, turns, 5)
        plain = found["none"]
        print(
            f"| {name} | {statistics.median(plain):.0f} | {ratio(found['each epoch'], plain)} "
            f"| {ratio(found['in a thread'], plain)} |"
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--workloads", nargs="*", default=["mlp", "cnn"], choices=WORKLOADS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report_files(Path(folder), options.turns)
        report_epochs(Path(folder), options.workloads, options.turns)


if __name__ == "__main__":
    main()
