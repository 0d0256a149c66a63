"""Tell where the time of a training step of `fit` goes, part by part.

    python benchmarks/profile_step.py                 # the ring, half a minute
    python benchmarks/profile_step.py --workloads ring mlp --given loader

What runs is `fit` itself: clocks are put around what a user hands over (the net, the loss, the
optimizer, `Tensor.backward`) and around our own parts, and what a clock costs is measured and
taken off. Clocks count the thread's CPU time, so what else the machine does counts little.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from contenders import Terminal
from overhead import prepare_process, print_table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from workloads import WORKLOADS, Workload

import fitorch
from fitorch.internals.torch import bare_step

loop: Any = importlib.import_module("fitorch.engine.loop")

# The parts of a step, and what is in each.
PARTS = {
    "data": "the next batch: indices, gathering",
    "zero_grad": "forgetting the gradients",
    "forward": "the net",
    "loss": "the loss",
    "backward": "`Tensor.backward`",
    "optimizer": "fused Adam, without torch's wrappers around `optimizer.step`",
    "metrics": "adding the loss up, which waits for it; feeding the metric",
    "callbacks": "hooks of each batch, the display among them",
}
REST = "all else: calls between the parts, checks, whether to stop"


class Clock:
    """Adds up how long and how often a part ran."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.nanoseconds = 0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with the clock around it."""
        now = time.thread_time_ns

        def timed(*args: Any) -> Any:
            began = now()
            result = function(*args)
            self.nanoseconds += now() - began
            self.calls += 1
            return result

        return timed

    def over(self, batches: Any) -> Iterator[Any]:
        """Return the iterator over `batches` with the clock around each."""
        return iter(self.around(iter(batches).__next__), object())


def share_inside(calls: int = 20_000, turns: int = 15) -> float:
    """Return which part of a clock's own cost falls inside what it measures, in [0, 1]."""
    shares = []
    for _ in range(turns):
        clock = Clock()
        bare, timed = _nanoseconds(_nothing, calls), _nanoseconds(clock.around(_nothing), calls)
        shares.append((clock.nanoseconds - bare) / (timed - bare))
    return min(max(statistics.median(shares), 0.0), 1.0)


def _nothing(_argument: Any) -> None:
    pass


def _nanoseconds(function: Callable[..., Any], calls: int) -> int:
    """Return the nanoseconds of so many calls."""
    began = time.thread_time_ns()
    for _ in range(calls):
        function(None)
    return time.thread_time_ns() - began


class Epoch(NamedTuple):
    """One training stage, without its validation.

    Args:
        whole: Nanoseconds.
        parts: Part to nanoseconds and calls of its clock; empty without clocks.
    """

    whole: int
    parts: dict[str, tuple[int, int]]


class Profile:
    """Runs training stages by turns without and with clocks, and compares them.

    Args:
        net: The net.
        loss_fn: The loss, a module.
        optimizer: The optimizer; its `step` is replaced for good.
    """

    def __init__(self, net: nn.Module, loss_fn: nn.Module, optimizer: Any) -> None:
        self.clocks = {part: Clock() for part in PARTS}
        self._net, self._loss_fn = net, loss_fn
        self._bare: list[Epoch] = []
        self._clocked: list[Epoch] = []
        self._real = loop.run_stage
        self._step = self._bare_step = bare_step(optimizer)
        optimizer.step = lambda: self._step()  # fit looks it up once: the clock comes and goes here

    def run_stage(self, net: Any, step: Any, batches: Any, *hooks: Any, **rest: Any) -> int:
        """Run a training stage in place of the loop's own `run_stage`, every other with clocks."""
        if len(self._bare) <= len(self._clocked):
            began = time.thread_time_ns()
            count: int = self._real(net, step, batches, *hooks, **rest)
            self._bare.append(Epoch(time.thread_time_ns() - began, {}))
            return count
        begin, end, *others = hooks
        around = self.clocks["callbacks"].around
        begin, end = tuple(map(around, begin)), tuple(map(around, end))
        batches = self.clocks["data"].over(batches)
        for clock in self.clocks.values():
            clock.reset()
        with self._clocks_in(step):
            began = time.thread_time_ns()
            count = self._real(net, step, batches, begin, end, *others, **rest)
            nanoseconds = time.thread_time_ns() - began
        self._note(nanoseconds)
        return count

    @contextlib.contextmanager
    def _clocks_in(self, step: Any) -> Iterator[None]:
        """Put clocks around the parts of a step, and take them away."""
        places = [
            ("zero_grad", step.update, "zero_grad"),
            ("forward", self._net, "forward"),
            ("loss", self._loss_fn, "forward"),
            ("backward", torch.Tensor, "backward"),
            ("metrics", step.measurement.losses, "add"),
            ("metrics", step.measurement.metrics, "update"),
        ]
        with contextlib.ExitStack() as stack:
            for part, owner, name in places:
                timed = self.clocks[part].around(getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            self._step = self.clocks["optimizer"].around(self._bare_step)
            yield
            self._step = self._bare_step

    def _note(self, nanoseconds: int) -> None:
        idle = [part for part, clock in self.clocks.items() if not clock.calls]
        if idle:
            message = f"no clock of {idle} ran: fit no longer goes through them"
            raise RuntimeError(message)
        parts = {part: (clock.nanoseconds, clock.calls) for part, clock in self.clocks.items()}
        self._clocked.append(Epoch(nanoseconds, parts))

    def result(self, steps: int) -> dict[str, float]:
        """Return microseconds a step of each part, of the rest and of the whole.

        Args:
            steps: Steps in an epoch.
        """
        bare, clocked = _quieter(self._bare[1:]), _quieter(self._clocked[1:])
        whole = statistics.fmean(epoch.whole for epoch in bare)
        calls = sum(count for _, count in clocked[0].parts.values())
        per_call = (statistics.fmean(epoch.whole for epoch in clocked) - whole) / calls
        inside = max(per_call, 0.0) * share_inside()
        found = {
            part: statistics.fmean(e.parts[part][0] - inside * e.parts[part][1] for e in clocked)
            for part in PARTS
        }
        found |= {"rest": whole - sum(found.values()), "whole": whole}
        return {part: value / steps / 1e3 for part, value in found.items()}


def _quieter(epochs: list[Epoch]) -> list[Epoch]:
    """Return the faster half of the epochs, during which the machine did little else."""
    return sorted(epochs, key=lambda epoch: epoch.whole)[: max(len(epochs) // 2, 1)]


def profile(workload: Workload, given: str, epochs: int) -> dict[str, float]:
    """Run `fit`, its display on a terminal, and return where its time goes.

    Args:
        workload: What to train.
        given: "tensors" or "loader", what `fit` is given.
        epochs: How many epochs, four at least: half of them with clocks, two to warm up.
    """
    net, loss_fn = copy.deepcopy(workload.net), copy.deepcopy(workload.loss_fn)
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)
    found = Profile(net, loss_fn, optimizer)
    with mock.patch.object(loop, "run_stage", found.run_stage):
        fit(workload, net, loss_fn, optimizer, given, epochs)
    return found.result(workload.steps)


def fit(
    workload: Workload, net: Any, loss_fn: Any, optimizer: Any, given: str, epochs: int
) -> None:
    """Train with fitorch, as the contender of overhead.py does."""
    model = fitorch.KerasModel(net, loss_fn, {"acc": "acc"}, optimizer=optimizer)
    terminal, options, train = Terminal(), {}, workload.train
    val: Any = workload.val
    if given == "loader":
        size = workload.batch_size
        train = DataLoader(TensorDataset(*train), batch_size=size, shuffle=True)
        val = DataLoader(TensorDataset(*val), batch_size=size)
    else:
        options["batch_size"] = workload.batch_size
    with contextlib.redirect_stdout(terminal.file):
        model.fit(train, val, epochs=epochs, verbose=1, **options)
    terminal.file.close()


def show(name: str, given: str, found: dict[str, float]) -> None:
    """Print a workload's table."""
    print(f"### {name}, given {given}\n")
    whole = found["whole"]
    rows = [
        [part, f"{found[part]:.1f}", f"{found[part] / whole:.0%}", what]
        for part, what in {**PARTS, "rest": REST}.items()
    ]
    rows.append(["**whole step**", f"**{whole:.1f}**", "", "an epoch's training by its steps"])
    print_table(["part", "us a step", "share", "what it is"], rows)
    print()


def main() -> None:
    """Profile what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["ring"])
    parser.add_argument("--given", nargs="+", choices=["tensors", "loader"], default=["tensors"])
    parser.add_argument("--steps", type=int, default=20_000, help="training steps, about")
    arguments = parser.parse_args()
    prepare_process()
    for name in arguments.workloads:
        workload = WORKLOADS[name]()
        epochs = max(4, arguments.steps // workload.steps)
        for given in arguments.given:
            show(name, given, profile(workload, given, epochs))


if __name__ == "__main__":
    main()
