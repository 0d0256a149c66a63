"""One of the processes of scaling.py: epochs of `fit` and of loops written by hand, in turn.

Usage: torchrun --nproc_per_node 2 benchmarks/scaling_worker.py mlp --batch-size 256 --epochs 8
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from contenders import Figures, Terminal
from overhead import first_batch, prepare_process
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from workloads import WORKLOADS, Workload

from fitorch import KerasModel
from fitorch.callbacks import Callback


def main() -> None:
    """Measure, and print what was found as JSON, in the main process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--batch-size", type=int, required=True, help="of each process")
    parser.add_argument("--epochs", type=int, required=True)
    args = parser.parse_args()
    prepare_process()
    workload = dataclasses.replace(WORKLOADS[args.workload](), batch_size=args.batch_size)
    found = measure(workload, args.epochs)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        print(json.dumps(found), flush=True)
    time.sleep(0.1)  # torch may abort at exit where gloo's threads still hold the last tensors


def measure(workload: Workload, epochs: int) -> dict[str, Any]:
    """Train `epochs` epochs of each contender, one after the other, behind one to warm up."""
    model = _model(workload)
    turns = Turns(workload)
    options: dict[str, Any] = {"batch_size": workload.batch_size, "seed": 0, "verbose": 1}
    with contextlib.redirect_stdout(Terminal().file):
        frame = model.fit(
            workload.train, workload.val, epochs=epochs + 1, callbacks=[turns], **options
        )
        short = first_batch(workload)
        calls = [_seconds(model.fit, short.train, short.val, 1, **options) for _ in range(4)]
    ours = [Figures(*row) for row in frame[list(Figures._fields)].itertuples(index=False)]
    steps = -(-workload.steps // turns.world)
    return {
        "world": turns.world,
        "batch_size": workload.batch_size,
        "steps": steps,
        "microseconds": {
            name: [1e6 * seconds / steps for seconds in times[1:]]
            for name, times in turns.seconds.items()
        },
        "losses": {
            name: [each.train_loss for each in figures]
            for name, figures in {**turns.figures, "fitorch": ours}.items()
        },
        "call_ms": 1e3 * statistics.median(calls[1:]),
        **_messages(sum(p.numel() for p in model.net.parameters()), turns.world),
    }


class Turns(Callback):
    """After each epoch of `fit` train an epoch of each loop by hand; tell how long all took.

    What is counted as an epoch of `fit` is all the time between two calls of this.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.world = 1
        self.seconds: dict[str, list[float]] = {}
        self.figures: dict[str, list[Figures]] = {}
        self._loops: dict[str, ByHand] = {}
        self._since = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Build the loops, now that the processes have met."""
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        self._loops["by hand"] = ByHand(self.workload, self.world)
        if self.world > 1:
            self._loops["silent"] = ByHand(self.workload, self.world, silent=True)
        self.seconds = {name: [] for name in ("fitorch", *self._loops)}
        self.figures = {name: [] for name in self._loops}
        self._since = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take the time of the epoch, and of one of each loop."""
        self.seconds["fitorch"].append(time.perf_counter() - self._since)
        for name, train in self._loops.items():
            begin = time.perf_counter()
            self.figures[name].append(train())
            self.seconds[name].append(time.perf_counter() - begin)
        self._since = time.perf_counter()


class ByHand:
    """The loop of a careful user; figures are added up over the processes once an epoch.

    Args:
        workload: What to train.
        world: How many processes share the data; DistributedDataParallel where there are several.
        silent: Let each process train by itself, without a message in any step.
    """

    def __init__(self, workload: Workload, world: int, *, silent: bool = False) -> None:
        net: Any = copy.deepcopy(workload.net)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)
        self.net = DistributedDataParallel(net) if world > 1 else net
        self.workload, self.world, self.silent = workload, world, silent
        self.rank = distributed.get_rank() if world > 1 else 0
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> Figures:
        """Train an epoch and validate."""
        sums = torch.tensor([*self.train(), *self.validate()], dtype=torch.float64)
        if self.world > 1:
            distributed.all_reduce(sums)
        loss, hits, seen, val_loss, val_hits, val_seen = sums.tolist()
        return Figures(loss / seen, hits / seen, val_loss / val_seen, val_hits / val_seen)

    def train(self) -> list[float]:
        """Return the sum of the losses, the right predictions and the samples of this process."""
        net, optimizer, loss_fn, correct = self._parts()
        net.train()
        x_train, y_train = self.workload.train
        loss_sum, hits, seen = 0.0, 0.0, 0
        with net.no_sync() if self.silent else contextlib.nullcontext():
            for index in self._own(torch.randperm(len(x_train), generator=self.generator)):
                x, y = x_train[index], y_train[index]
                optimizer.zero_grad()
                y_pred = net(x)
                loss = loss_fn(y_pred, y)
                loss.backward()
                optimizer.step()
                loss_sum += loss.item() * len(x)
                hits += correct(y_pred, y).item()
                seen += len(x)
        return [loss_sum, hits, seen]

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Return the same over the validation data."""
        net, _, loss_fn, correct = self._parts()
        net.eval()
        x_val, y_val = self.workload.val
        loss_sum, hits, seen = 0.0, 0.0, 0
        for index in self._own(torch.arange(len(x_val))):
            x, y = x_val[index], y_val[index]
            y_pred = net(x)
            loss_sum += loss_fn(y_pred, y).item() * len(x)
            hits += correct(y_pred, y).item()
            seen += len(x)
        return [loss_sum, hits, seen]

    def _parts(self) -> tuple[Any, torch.optim.Optimizer, Any, Callable[[Tensor, Tensor], Tensor]]:
        return self.net, self.optimizer, self.workload.loss_fn, self.workload.correct

    def _own(self, indices: Tensor) -> list[Tensor]:
        size = self.workload.batch_size * self.world
        return [batch.tensor_split(self.world)[self.rank] for batch in indices.split(size)]


def _model(workload: Workload) -> KerasModel:
    net = copy.deepcopy(workload.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)
    return KerasModel(net, workload.loss_fn, {"acc": "acc"}, optimizer)


def _messages(parameters: int, world: int) -> dict[str, float]:
    """Return how long it takes to add up as many numbers as there are gradients, and one."""
    found: dict[str, float] = {"gradient_bytes": 4 * parameters}
    if world > 1:
        found["all_reduce_us"] = _all_reduce_us(parameters)
        found["latency_us"] = _all_reduce_us(1)
    return found


def _all_reduce_us(numbers: int) -> float:
    gradients = torch.zeros(numbers)
    return 1e6 * statistics.median(_seconds(distributed.all_reduce, gradients) for _ in range(50))


def _seconds(function: Callable[..., Any], *args: Any, **options: Any) -> float:
    begin = time.perf_counter()
    function(*args, **options)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
