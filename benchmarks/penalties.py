"""Measure what a penalty costs: ours beside a loop over the parameters, on a net of 200 tensors.

    python benchmarks/penalties.py

Ours does what `fit` does: values for the figures, gradients added in place, the parameters to
penalize chosen beforehand. Each turn trains every contender for a few steps, on one thread; what a
penalty costs is the time of its step less that of the step without one, in the same turn.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fitorch.losses import L1, L2, Composition, Objective

TENSORS = 200
FACTOR = 1e-3


def loop_l2(net: nn.Module, alpha: float) -> Tensor:
    """Add up parameter by parameter, as people write it."""
    l2_loss = torch.tensor(0.0, requires_grad=True)
    for name, param in net.named_parameters():
        if "bias" not in name:
            l2_loss = l2_loss + (0.5 * alpha * torch.sum(torch.pow(param, 2)))
    return l2_loss


def loop_l1(net: nn.Module, beta: float) -> Tensor:
    """Add up parameter by parameter, as people write it."""
    l1_loss = torch.tensor(0.0, requires_grad=True)
    for name, param in net.named_parameters():
        if "bias" not in name:
            l1_loss = l1_loss + beta * torch.sum(torch.abs(param))
    return l1_loss


def measure(width: int, turns: int, steps: int) -> dict[str, list[float]]:
    """Return the seconds of a step, turn by turn, for each contender."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(TENSORS)))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    x = torch.randn(8, width)
    l1, l2 = FACTOR * L1(), FACTOR * L2()
    contenders: dict[str, Callable[[], None]] = {
        "no penalty": by_hand(net, optimizer, x, lambda: 0.0),
        "L2, loop": by_hand(net, optimizer, x, lambda: loop_l2(net, FACTOR)),
        "L2, fitorch": as_in_fit(net, optimizer, x, l2),
        "L1, loop": by_hand(net, optimizer, x, lambda: loop_l1(net, FACTOR)),
        "L1, fitorch": as_in_fit(net, optimizer, x, l1),
        "L1 + L2, loop": by_hand(
            net, optimizer, x, lambda: loop_l1(net, FACTOR) + loop_l2(net, FACTOR)
        ),
        "L1 + L2, fitorch": as_in_fit(net, optimizer, x, l1 + l2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, step in contenders.items():
            began = time.perf_counter()
            for _ in range(steps):
                step()
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - began) / steps)
    return seconds


def by_hand(
    net: nn.Module, optimizer: Optimizer, x: Tensor, penalty: Callable[[], Tensor | float]
) -> Callable[[], None]:
    """Return a step whose loss contains the penalty."""

    def step() -> None:
        optimizer.zero_grad()
        loss = net(x).square().mean() + penalty()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def as_in_fit(
    net: nn.Module, optimizer: Optimizer, x: Tensor, penalty: Composition
) -> Callable[[], None]:
    """Return a step that does what `fit` does: values for the figures, gradients in place."""
    objective = Objective(penalty)
    objective.bind(net)

    def step() -> None:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        with torch.no_grad():
            values = [term() for term in objective.penalties]
        for term in objective.penalties:
            term.add_gradients()
        optimizer.step()
        sum(values, start=loss).item()

    return step


def report(width: int, seconds: dict[str, list[float]]) -> None:
    """Print a row for each kind of penalty: medians over the turns."""
    bare = seconds["no penalty"]
    costs = {
        name: [time - base for time, base in zip(times, bare, strict=True)]
        for name, times in seconds.items()
    }
    for kind in ("L2", "L1", "L1 + L2"):
        loop, ours = costs[f"{kind}, loop"], costs[f"{kind}, fitorch"]
        ratio = statistics.median(loop) / statistics.median(ours)
        cells = [f"{1e6 * statistics.median(times):,.0f}" for times in (bare, loop, ours)]
        print(f"| {TENSORS} x {width}x{width} | {kind} | {' | '.join(cells)} | {ratio:.1f} |")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("Microseconds of a step without a penalty, and what the penalty adds to it.\n")
    print("| weights | penalty | step without | loop adds | fitorch adds | loop / fitorch |")
    print("|---|---|---|---|---|---|")
    for width in arguments.widths:
        report(width, measure(width, arguments.turns, arguments.steps))


if __name__ == "__main__":
    main()
