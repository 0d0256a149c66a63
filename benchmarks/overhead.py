"""Measure what a training step costs: loops written by hand beside fitorch, in one run.

Run `python benchmarks/overhead.py`; README.md beside this file says what the figures mean.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch
from contenders import CONTENDERS, Figures, Run
from workloads import WORKLOADS, Workload

HAND_WRITTEN = ["loader", "ceiling"]
MEMORY_EPOCHS = 3


class Measured(NamedTuple):
    """One workload's outcome: for each contender, microseconds per step of each repeat."""

    workload: str
    steps: int
    epochs: int
    microseconds: dict[str, list[float]]
    first: dict[str, Figures]
    last: dict[str, Figures]


def main() -> None:
    """Measure what the command line asks for and print it as Markdown."""
    args = parse_arguments()
    prepare_process()
    if args.peak:
        print(peak_of(args.peak))
        return
    contenders = HAND_WRITTEN if args.hand_written_only else list(CONTENDERS)
    print_machine(args)
    measured = []
    for name in args.workloads:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        measured.append(measure(name, contenders, args.repeats, args.chunk_seconds))
    print_steps(measured)
    print_training(measured)
    if not args.hand_written_only:
        print_constant(args.workloads)
        print_import(args.processes)
    if not args.no_memory:
        print_memory(contenders, args.processes)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `--quick` lowers what was not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, help="chunks of each contender (7; quick: 3)")
    parser.add_argument("--chunk-seconds", type=float, help="at least, by the ceiling (0.5)")
    parser.add_argument("--processes", type=int, help="for memory and import (5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="a rough picture in a minute")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory")
    parser.add_argument("--hand-written-only", action="store_true", help="leave fitorch out")
    parser.add_argument("--peak", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.repeats = args.repeats or (3 if args.quick else 7)
    args.chunk_seconds = args.chunk_seconds or (0.2 if args.quick else 0.5)
    args.processes = args.processes or (1 if args.quick else 5)
    return args


def prepare_process() -> None:
    """Use one thread, and look like a person's terminal to whoever asks the environment."""
    torch.set_num_threads(1)
    # rich takes its size from the process's own streams, not from the file it writes to
    os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="40")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)


def measure(name: str, contenders: list[str], repeats: int, chunk_seconds: float) -> Measured:
    """Warm every contender up by one epoch, then time chunks of epochs in turn."""
    workload = WORKLOADS[name]()
    runs = {contender: CONTENDERS[contender](workload) for contender in contenders}
    first = {contender: run(1) for contender, run in runs.items()}
    epochs = max(1, round(chunk_seconds / min(seconds_of(runs["ceiling"], 1)[0] for _ in range(2))))
    microseconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    last = {}
    for _ in range(repeats):
        for contender, run in runs.items():
            seconds, last[contender] = seconds_of(run, epochs)
            microseconds[contender].append(1e6 * seconds / (epochs * workload.steps))
    check_training(name, first, last)
    return Measured(name, workload.steps, epochs, microseconds, first, last)


def seconds_of(run: Run, epochs: int) -> tuple[float, Figures]:
    """Time one call, with the garbage of earlier calls out of the way."""
    gc.collect()
    start = time.perf_counter()
    figures = run(epochs)
    return time.perf_counter() - start, figures


def check_training(name: str, first: dict[str, Figures], last: dict[str, Figures]) -> None:
    """Refuse figures of a contender whose training loss did not fall."""
    for contender, figures in last.items():
        if not figures.train_loss < first[contender].train_loss:
            raise RuntimeError(f"{contender} did not learn {name}: {first[contender]} -> {figures}")


def print_machine(args: argparse.Namespace) -> None:
    """State what was measured, when and on what."""
    packages = ("torch", "fitorch", "accelerate", "torchmetrics", "rich")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    now = datetime.now(timezone.utc)
    print(f"## Overhead, {now:%Y-%m-%d %H:%M} UTC\n")
    print(f"{cpu_name()}, {os.cpu_count()} logical cores, one thread used;")
    print(f"Python {platform.python_version()}, {', '.join(versions)}.")
    print(f"{args.repeats} interleaved repeats of at least about {args.chunk_seconds} s each.")


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def print_steps(measured: list[Measured]) -> None:
    """Print the time per training step and the ratios to both hand-written loops."""
    contenders = list(measured[0].microseconds)
    header = ["workload", "steps x epochs", "loader us", "ceiling us", "ceiling/loader"]
    for contender in contenders[len(HAND_WRITTEN) :]:
        header += [f"{contender} us", "/ceiling", "/loader"]
    print("\n### Time per training step\n")
    print("Wall time of all epochs (training, validation, everything) / training steps; medians.")
    print("Ratios are medians of the ratios within a repeat, in brackets their quartiles.\n")
    print_table(header, (steps_row(one) for one in measured))


def steps_row(one: Measured) -> list[str]:
    """Return a workload's row of the table of times."""
    loader, ceiling = one.microseconds["loader"], one.microseconds["ceiling"]
    row = [one.workload, f"{one.steps} x {one.epochs}", *map(median_of, (loader, ceiling))]
    row.append(ratio_of(ceiling, loader))
    for contender, times in one.microseconds.items():
        if contender not in HAND_WRITTEN:
            row += [median_of(times), ratio_of(times, ceiling), ratio_of(times, loader)]
    return row


def median_of(values: list[float]) -> str:
    """Return the median, to a whole number."""
    return f"{statistics.median(values):,.0f}"


def ratio_of(times: list[float], reference: list[float]) -> str:
    """Return the median of the paired ratios and its quartiles."""
    ratios = [time / other for time, other in zip(times, reference, strict=True)]
    if len(ratios) == 1:
        return f"{ratios[0]:.3f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.2f}-{high:.2f})"


def print_training(measured: list[Measured]) -> None:
    """Print that every contender has trained, from its first epoch to its last."""
    print("\n### What was trained\n")
    rows = (
        [one.workload, contender, f"{first.train_loss:.4f}", *(f"{x:.4f}" for x in last)]
        for one in measured
        for (contender, first), last in zip(one.first.items(), one.last.values(), strict=True)
    )
    columns = ["train loss", "train acc", "val loss", "val acc"]
    print_table(["workload", "contender", "train loss of epoch 1", *columns], rows)


def print_constant(workloads: Iterable[str]) -> None:
    """Print what a call of `fit` costs before and after its steps: one epoch of one batch."""
    print("\n### Constant cost of one call of fit\n")
    print("One epoch of one training batch and one validation batch; contained in the above.\n")
    contenders = ["ceiling", "fitorch", "fitorch-loader"]
    rows = (
        [name, *(f"{one_batch_ms(name, contender):.2f}" for contender in contenders)]
        for name in workloads
    )
    print_table(["workload", *(f"{contender} ms" for contender in contenders)], rows)


def one_batch_ms(name: str, contender: str) -> float:
    """Return the median milliseconds of an epoch that is one batch long."""
    workload = first_batch(WORKLOADS[name]())
    run = CONTENDERS[contender](workload)
    return 1e3 * statistics.median([seconds_of(run, 1)[0] for _ in range(11)][1:])


def first_batch(workload: Workload) -> Workload:
    """Cut a workload down to its first batch of training and of validation samples."""
    size = workload.batch_size
    (x, y), (x_val, y_val) = workload.train, workload.val
    cut = {"train": (x[:size], y[:size]), "val": (x_val[:size], y_val[:size])}
    return dataclasses.replace(workload, **cut)


def print_import(processes: int) -> None:
    """Print the seconds that `import fitorch` adds to `import torch`, in fresh processes."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter();"
        "import fitorch; print(b - a, time.perf_counter() - b)"
    )
    in_fresh_process("-c", code)  # reads the files into the page cache
    times = [in_fresh_process("-c", code).split() for _ in range(processes)]
    torch_seconds, added = (
        statistics.median(map(float, column)) for column in zip(*times, strict=True)
    )
    print(f"\n### Import\n\nMedians of {processes} fresh processes.\n")
    row = [f"{torch_seconds:.3f}", f"{added:.3f}"]
    print_table(["import torch s", "import fitorch after it s"], [row])


def print_memory(contenders: Iterable[str], processes: int) -> None:
    """Print each contender's peak resident memory on `mlp`, each in processes of its own."""
    script = str(Path(__file__).resolve())
    peaks: dict[str, float] = {}
    for contender in contenders:
        runs = [float(in_fresh_process(script, "--peak", contender)) for _ in range(processes)]
        peaks[contender] = statistics.median(runs)
    print(f"\n### Peak memory on mlp, {MEMORY_EPOCHS} epochs\n")
    print(f"The whole process, imports and data included; medians of {processes} processes.\n")
    rows = ([name, f"{peak:.0f}", f"{peak - peaks['loader']:+.0f}"] for name, peak in peaks.items())
    print_table(["contender", "peak MB", "MB over loader"], rows)


def peak_of(contender: str) -> float:
    """Train a few epochs of `mlp` in this process and return its peak resident memory in MB."""
    CONTENDERS[contender](WORKLOADS["mlp"]())(MEMORY_EPOCHS)
    return peak_megabytes()


def peak_megabytes() -> float:
    """Return this program's peak resident memory.

    On Linux that is VmHWM: `ru_maxrss` outlives exec, so a child's never falls below its parent's.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def in_fresh_process(*arguments: str) -> str:
    """Run Python with these arguments and return what it printed."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def print_table(header: list[str], rows: Iterable[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
