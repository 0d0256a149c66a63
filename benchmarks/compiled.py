"""Measure what `jit_compile=True` and `channels_last=True` save, beside the hand-written loops.

Run `python benchmarks/compiled.py`; the columns are those of overhead.py.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import copy
import sys
from functools import partial
from typing import Any

import torch
from contenders import CONTENDERS, Figures, Run
from overhead import median_of, prepare_process, print_machine, print_table, ratio_of, seconds_of
from workloads import WORKLOADS, Workload

WAYS: dict[str, dict[str, bool]] = {
    "fitorch": {},
    "jit_compile": {"jit_compile": True},
    "channels_last": {"channels_last": True},
    "both": {"jit_compile": True, "channels_last": True},
}


def main() -> None:
    """Measure what the command line asks for and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=7, help="chunks of each contender")
    parser.add_argument("--chunk-seconds", type=float, default=0.5, help="at least, by the ceiling")
    args = parser.parse_args()
    prepare_process()
    print_machine(args)
    print("\nTime per training step, validation and everything else included; medians.")
    print("Ratios are medians of the ratios within a repeat, in brackets their quartiles.")
    print("Compile: what the first fit took longer than a second one.\n")
    header = ["workload", "contender", "us", "/ceiling", "/loader", "compile s"]
    print_table(header, (row for name in args.workloads for row in measure(name, args)))


def measure(name: str, args: argparse.Namespace) -> list[list[str]]:
    """Return a workload's rows."""
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    workload = WORKLOADS[name]()
    has_images = workload.train[0].dim() == 4
    ways = {way: o for way, o in WAYS.items() if has_images or "channels_last" not in o}
    runs: dict[str, Run] = {"loader": CONTENDERS["loader"](workload)}
    runs["ceiling"] = CONTENDERS["ceiling"](workload)
    for way, options in ways.items():
        runs[way] = partial(_once, _model(workload, options), workload)
    first = {contender: seconds_of(run, 1)[0] for contender, run in runs.items()}
    second = {contender: seconds_of(run, 1)[0] for contender, run in runs.items()}
    epochs = max(1, round(args.chunk_seconds / second["ceiling"]))
    times: dict[str, list[float]] = {contender: [] for contender in runs}
    for _ in range(args.repeats):
        for contender, run in runs.items():
            times[contender].append(1e6 * seconds_of(run, epochs)[0] / (epochs * workload.steps))
    compiled = {way for way, options in ways.items() if "jit_compile" in options}
    rows = []
    for contender, values in times.items():
        ratios = [ratio_of(values, times[other]) for other in ("ceiling", "loader")]
        seconds = f"{first[contender] - second[contender]:.1f}" if contender in compiled else ""
        rows.append([name, contender, median_of(values), *ratios, seconds])
    return rows


def _model(workload: Workload, options: dict[str, bool]) -> Any:
    from fitorch import KerasModel

    net = copy.deepcopy(workload.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)
    return KerasModel(net, workload.loss_fn, {"acc": "acc"}, optimizer, **options)


def _once(model: Any, workload: Workload, epochs: int) -> Figures:
    options = {"epochs": epochs, "batch_size": workload.batch_size, "verbose": 0}
    frame = model.fit(workload.train, workload.val, **options)
    return Figures(**{name: float(frame[name].iloc[-1]) for name in Figures._fields})


if __name__ == "__main__":
    main()
