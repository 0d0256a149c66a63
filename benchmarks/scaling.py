"""Measure one and two processes: what `fit` adds to a loop by hand, and how both scale.

Run `python benchmarks/scaling.py`; README.md beside this file says what the figures mean.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from overhead import cpu_name, median_of, print_table, ratio_of
from scaling_model import Machine, Net, step_of
from workloads import WORKLOADS

Job = dict[str, Any]  # what scaling_worker.py tells
Turn = dict[str, Job]  # by the name of the job

LABELS = {
    "alone": "1 process",
    "weak": "2, the same batch each",
    "strong": "2, half the batch each",
}
TIMEOUT = 600.0  # seconds for a job


def main() -> None:
    """Measure what the command line asks for and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["mlp", "cnn"])
    parser.add_argument("--turns", type=int, default=3, help="each starts every job once")
    parser.add_argument("--epochs", type=int, default=8, help="of each contender in a job")
    args = parser.parse_args()
    measured = {name: measure(name, args.turns, args.epochs) for name in args.workloads}
    now = datetime.now(timezone.utc)
    print(f"## Processes, {now:%Y-%m-%d %H:%M} UTC\n")
    print(f"{cpu_name()}, {os.cpu_count()} logical cores, one thread a process, gloo;")
    print(f"torch {importlib.metadata.version('torch')}.")
    print(f"{args.turns} turns of {args.epochs} epochs of each contender, which alternate.")
    report(measured)


def measure(workload: str, turns: int, epochs: int) -> list[Turn]:
    """Return what each turn found; a turn starts every job once."""
    batch = WORKLOADS[workload]().batch_size
    jobs = {"alone": (1, batch), "weak": (2, batch), "strong": (2, batch // 2)}
    found = []
    for number in range(1, turns + 1):
        turn: Turn = {}
        for name, (processes, size) in jobs.items():
            print(f"{workload}, turn {number} of {turns}: {name}", file=sys.stderr, flush=True)
            turn[name] = run_job(workload, processes, size, epochs)
        found.append(turn)
    return found


def run_job(workload: str, processes: int, batch_size: int, epochs: int) -> Job:
    """Return what so many processes find.

    Raises:
        RuntimeError: They failed, or a contender did not train.
    """
    script = str(Path(__file__).resolve().parent / "scaling_worker.py")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    options = ["--batch-size", str(batch_size), "--epochs", str(epochs)]
    command = [sys.executable, *(start if processes > 1 else []), script, workload, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-6000:] or "no message")
    job: Job = json.loads(done.stdout.strip().splitlines()[-1])
    for name, losses in job["losses"].items():
        if not losses[-1] < losses[0]:
            message = f"{name} did not learn {workload}: loss {losses[0]} -> {losses[-1]}"
            raise RuntimeError(message)
    return job


def report(measured: dict[str, list[Turn]]) -> None:
    """Print what a step costs, how that scales, and what the model on paper says."""
    print("\n### Time per training step\n")
    print(
        "Wall time of epochs, validation and all, by their steps; ratios within a pair of epochs."
    )
    print("A call of fit: one epoch of one batch for each process.\n")
    header = ["workload", "processes", "batch each", "steps", "by hand us", "fitorch us"]
    print_table([*header, "fitorch / by hand", "call of fit ms"], step_rows(measured))
    print("\n### What a second process brings\n")
    print("Samples a second beside one process, medians over the turns; 2 would be perfect.\n")
    print_table(
        ["workload", "processes", "by hand", "fitorch", "without messages"], speed_rows(measured)
    )
    print("\n### The model of docs/scaling.md\n")
    print("A step without messages, and what adding the gradients up takes by itself, give the")
    print("step that the model expects; beside it the loop by hand as measured.\n")
    header = ["workload", "processes", "gradients KB", "silent us", "all-reduce us"]
    print_table([*header, "model us", "measured us", "measured / model"], model_rows(measured))


def step_rows(measured: dict[str, list[Turn]]) -> Iterator[list[str]]:
    """Give the rows of the table of times."""
    for workload, turns in measured.items():
        for name, label in LABELS.items():
            ours, theirs = (everywhere(turns, name, each) for each in ("fitorch", "by hand"))
            job = turns[0][name]
            call = statistics.median(turn[name]["call_ms"] for turn in turns)
            counts = [str(job["batch_size"]), str(job["steps"])]
            times = [median_of(theirs), median_of(ours), ratio_of(ours, theirs)]
            yield [workload, label, *counts, *times, f"{call:.0f}"]


def speed_rows(measured: dict[str, list[Turn]]) -> Iterator[list[str]]:
    """Give the rows of the table of speed."""
    for workload, turns in measured.items():
        for name in ("weak", "strong"):
            pairs = (("by hand", "by hand"), ("fitorch", "fitorch"), ("silent", "by hand"))
            yield [workload, LABELS[name], *(speedup(turns, name, *pair) for pair in pairs)]


def speedup(turns: list[Turn], name: str, contender: str, alone: str) -> str:
    """Return how many times the samples a second two processes reach."""
    found = []
    for turn in turns:
        one, two = turn["alone"], turn[name]
        seconds = statistics.median(one["microseconds"][alone]) * one["steps"]
        found.append(seconds / (statistics.median(two["microseconds"][contender]) * two["steps"]))
    return f"{statistics.median(found):.2f}"


def model_rows(measured: dict[str, list[Turn]]) -> Iterator[list[str]]:
    """Give the rows that compare the model on paper with what was measured."""
    for workload, turns in measured.items():
        for name in ("weak", "strong"):
            silent = statistics.median(everywhere(turns, name, "silent"))
            by_hand = statistics.median(everywhere(turns, name, "by hand"))
            jobs = [turn[name] for turn in turns]
            messages = statistics.median(job["all_reduce_us"] for job in jobs)
            latency = statistics.median(job["latency_us"] for job in jobs)
            expected = expected_us(silent, messages, latency, jobs[0]["gradient_bytes"])
            sizes = [
                f"{jobs[0]['gradient_bytes'] / 1000:.0f}",
                f"{silent:,.0f}",
                f"{messages:,.0f}",
            ]
            figures = [f"{expected:,.0f}", f"{by_hand:,.0f}", f"{by_hand / expected:.2f}"]
            yield [workload, LABELS[name], *sizes, *figures]


def expected_us(silent: float, messages: float, latency: float, gradients: float) -> float:
    """Return what the model expects of two processes, from what was measured of the parts."""
    seconds = max(messages - latency, 1.0) / 1e6
    machine = Machine(
        flops=1.0,
        inside=gradients / seconds,  # of two, each sends as much as there are gradients
        between=1.0,
        latency_inside=latency / 1e6 / 2,  # there and back
        latency_between=0.0,
        node=2,
    )
    return 1e6 * step_of(Net(gradients / 4, 4, silent / 1e6), machine, 2).seconds


def everywhere(turns: list[Turn], name: str, contender: str) -> list[float]:
    """Return a contender's times in all turns."""
    return [each for turn in turns for each in turn[name]["microseconds"][contender]]


if __name__ == "__main__":
    main()
