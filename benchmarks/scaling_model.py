"""What data parallel training should cost on n GPUs, on paper: docs/scaling.md tells the formulas.

Run `python benchmarks/scaling_model.py`; it prints the tables of that page.
"""
# ruff: noqa: T201

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

COUNTS = (1, 2, 8, 16, 64, 256, 1024, 4096)
BUCKET = 25 * 2**20  # bytes of gradients that DistributedDataParallel sends at once
BACKWARD = 2 / 3  # of the arithmetic of a step


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes, and what joins them.

    Args:
        flops: What a GPU sustains, per second.
        inside: Bytes per second that a GPU sends to the next in its node.
        between: The same to a GPU of another node.
        latency_inside: Seconds before the first byte is there.
        latency_between: The same between nodes.
        node: GPUs in a node.
    """

    flops: float
    inside: float
    between: float
    latency_inside: float
    latency_between: float
    node: int = 8


@dataclass(frozen=True)
class Net:
    """What is trained.

    Args:
        parameters: How many.
        width: Bytes of a gradient.
        compute: Seconds of a step of one GPU, forward and backward.
        buckets: How many all-reduces the gradients travel in; None for those of 25 MB.
    """

    parameters: float
    width: int
    compute: float
    buckets: int | None = 1

    @property
    def gradients(self) -> float:
        """Bytes of all gradients."""
        return self.parameters * self.width


@dataclass(frozen=True)
class Step:
    """What an update costs, in seconds.

    Args:
        compute: Arithmetic.
        messages: All-reduces.
        exposed: What of the messages the backward does not hide.
    """

    compute: float
    messages: float
    exposed: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.compute + self.exposed

    @property
    def efficiency(self) -> float:
        """The share of the time that is arithmetic."""
        return self.compute / self.seconds


def sent(gradients: float, count: int) -> float:
    """Return the bytes that each of `count` GPUs sends in a ring all-reduce."""
    return 2 * (count - 1) / count * gradients


def all_reduce(gradients: float, machine: Machine, count: int) -> float:
    """Return the seconds of an all-reduce: a ring, or a tree where latency would rule."""
    if count == 1:
        return 0.0
    nodes = math.ceil(count / machine.node)
    rate = machine.inside if nodes == 1 else machine.between
    hops = 2 * (count - nodes) * machine.latency_inside + 2 * (nodes - 1) * machine.latency_between
    ring = hops + sent(gradients, count) / rate
    depth = math.log2(min(count, machine.node)) * machine.latency_inside
    depth += math.ceil(math.log2(nodes)) * machine.latency_between
    tree = 2 * depth + 2 * gradients / rate
    return min(ring, tree)


def step_of(net: Net, machine: Machine, count: int, window: int = 1) -> Step:
    """Return what an update of `window` batches costs on `count` GPUs.

    The last bucket is full when the backward ends; the others travel while it goes on.
    """
    buckets = net.buckets or math.ceil(net.gradients / BUCKET)
    each = all_reduce(net.gradients / buckets, machine, count)
    hidden = min((buckets - 1) * each, net.compute * BACKWARD * (1 - 1 / buckets))
    messages = buckets * each
    return Step(window * net.compute, messages, messages - hidden)


def sharded(net: Net, machine: Machine, count: int, window: int = 1) -> Step:
    """Return the same with weights, gradients and optimizer state cut up: FSDP.

    Each batch gathers the weights twice and scatters the gradients: half an all-reduce each.
    """
    buckets = net.buckets or math.ceil(net.gradients / BUCKET)
    each = 1.5 * all_reduce(net.gradients / buckets, machine, count)
    hidden = min((buckets - 1) * each, net.compute * (1 - 1 / buckets))
    messages = buckets * each
    return Step(window * net.compute, window * messages, window * (messages - hidden))


def memory(parameters: float, count: int = 1) -> float:
    """Return bytes of float32 weights, gradients and Adam's state, cut up over `count` GPUs."""
    return 16 * parameters / count


# Assumptions, none of them measured: round figures of an H100 in nodes of eight.
H100 = Machine(
    flops=4e14,  # 40 % of what the data sheet says for bf16; convolutions a quarter of that
    inside=3.5e11,  # NVLink, of 450 GB/s in each direction
    between=4.5e10,  # one 400 Gbit/s card for each GPU, of 50 GB/s
    latency_inside=3e-6,
    latency_between=1e-5,
)


def transformer(parameters: float, tokens: int) -> Net:
    """Return a transformer with so many tokens a batch: six operations a parameter and token."""
    return Net(parameters, 4, 6 * parameters * tokens / H100.flops, None)


NETS = {
    "ResNet-50, 25.6 M, 256 images": Net(25.6e6, 4, 256 * 24.6e9 / (H100.flops / 4), None),
    "GPT-2, 124 M, 16 k tokens": transformer(124e6, 2**14),
    "GPT-2, 124 M, 4 k tokens": transformer(124e6, 2**12),
    "1.3 B, 16 k tokens": transformer(1.3e9, 2**14),
    "7 B, 8 k tokens": transformer(7e9, 2**13),
}


def efficiencies() -> Iterator[list[str]]:
    """Give for each net what share of n GPUs' arithmetic is left."""
    for name, net in NETS.items():
        steps = [step_of(net, H100, count) for count in COUNTS]
        yield [name, f"{1e3 * net.compute:.0f}", *(f"{step.efficiency:.0%}" for step in steps)]


def ways() -> Iterator[list[str]]:
    """Give for each net what accumulation and FSDP change on the largest machine."""
    largest = COUNTS[-1]
    for name, net in NETS.items():
        whole = memory(net.parameters) / 1e9
        parts = memory(net.parameters, 64) / 1e9
        once, four = (step_of(net, H100, largest, window) for window in (1, 4))
        cut = sharded(net, H100, largest)
        shares = (f"{each.efficiency:.0%}" for each in (once, four, cut))
        yield [name, f"{whole:.1f}", f"{parts:.1f}", f"{1e3 * once.messages:.0f}", *shares]


def table(header: list[str], rows: Iterator[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables() -> list[str]:
    """Return the tables of docs/scaling.md."""
    first = ["net, batch of a GPU", "step of one GPU, ms", *map(str, COUNTS)]
    second = ["net, batch of a GPU", "state of a GPU, GB", "cut over 64, GB"]
    second += [f"messages on {COUNTS[-1]}, ms", "efficiency", "of 4 accumulated", "of FSDP"]
    return [table(first, efficiencies()), table(second, ways())]


def main() -> None:
    """Print the tables."""
    print("\n\n".join(tables()))


if __name__ == "__main__":
    main()
