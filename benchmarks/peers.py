"""Measure what a training step costs in other trainers, each in a process of its own.

    make bench-peers                                  # installs them in .venv-peers, and runs this
    python benchmarks/peers.py --workloads ring --turns 3 --peers lightning keras

README.md beside this file says what the figures mean.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from overhead import cpu_name
from peers_report import Measurements, draw, report
from trainers import PEERS

EPOCHS = {"ring": 100, "mlp": 8, "cnn": 3, "transformer": 2}  # a second and more for the fastest
NEEDED = ["loader", "ceiling"]
TIMEOUT = 300  # seconds for one contender in one turn


def main() -> None:
    """Measure, or read what was measured; print Markdown and draw a chart."""
    args = parse_arguments()
    if args.read:
        measured = Measurements(**json.loads(args.read.read_text()))
    else:
        measured = measure_all(args.workloads, [*NEEDED, *args.peers], args.turns)
    if args.save:
        args.save.write_text(json.dumps(vars(measured)))
    print(report(measured))
    if args.chart and "ring" in measured.turns:
        draw(measured, "ring", args.chart)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=EPOCHS, default=["ring", "mlp"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--chart", type=Path, help="draw the ring's bars into this PNG")
    parser.add_argument("--save", type=Path, help="keep the measurements in this JSON")
    parser.add_argument("--read", type=Path, help="report what was kept instead of measuring")
    return parser.parse_args()


def measure_all(workloads: Iterable[str], peers: list[str], turns: int) -> Measurements:
    """Measure every contender on every workload."""
    names = [name for name in PEERS if name in peers]
    measured = Measurements(about(), versions_of(names), {}, {}, dict(EPOCHS))
    for workload in workloads:
        measure(measured, workload, names, turns)
    return measured


def measure(measured: Measurements, workload: str, names: list[str], turns: int) -> None:
    """Let the contenders take turns; one that fails is noted and left out from then on.

    Raises:
        RuntimeError: A loop by hand failed, which the others are compared with.
    """
    measured.turns[workload], measured.failed[workload] = [], {}
    for number in range(1, turns + 1):
        turn: dict[str, Any] = {}
        for name in names:
            if name not in measured.failed[workload]:
                print(f"{workload}, turn {number} of {turns}: {name}", file=sys.stderr, flush=True)
                _take_turn(measured, workload, name, turn)
        measured.turns[workload].append(turn)


def _take_turn(measured: Measurements, workload: str, name: str, turn: dict[str, Any]) -> None:
    try:
        turn[name] = run_one(name, workload)
    except RuntimeError as error:
        if name in NEEDED:
            raise
        measured.failed[workload][name] = str(error)


def run_one(name: str, workload: str) -> dict[str, Any]:
    """Return what a contender measures in a fresh process and an empty folder.

    Raises:
        RuntimeError: It failed, took too long, used several threads, or did not train.
    """
    script = Path(__file__).resolve().parent / "peer.py"
    command = [sys.executable, str(script), name, workload, str(EPOCHS[workload])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            message = f"took more than {TIMEOUT} s"
            raise RuntimeError(message) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(last)
    found: dict[str, Any] = json.loads(done.stdout)
    check(found)
    return found


def check(found: dict[str, Any]) -> None:
    """Refuse figures of a contender that did not train, or not on one thread.

    Raises:
        RuntimeError: So it is.
    """
    before, after = found["untrained"]["train_loss"], found["trained"]["train_loss"]
    if not after < before:
        message = f"refused: it did not train, its loss went from {before:.4f} to {after:.4f}"
        raise RuntimeError(message)
    if found["threads"] != 1:
        message = f"refused: it used {found['threads']} threads"
        raise RuntimeError(message)


def about() -> dict[str, str]:
    """Return when and on what this runs."""
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each contender's package, "" where it has none or is not installed."""
    return {name: _version(PEERS[name].distribution) for name in names}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution) if distribution else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
