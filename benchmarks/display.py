"""Measure what the display costs: `fit` that shows itself beside a silent one, on `ring`.

    python benchmarks/display.py

A fit of a few hundred short epochs, silent and with each display in turn: on a pseudo-terminal in
this process, in a notebook without and with its live plot on a real kernel (ipykernel) that a
client listens to. Ratios are taken within a turn, of CPU time of the whole process, its threads
included, and of wall time; what is shown are medians and quartiles. On a busy machine these are
coarse. So one more fit a turn has clocks around the display: its share of the CPU time is exact,
but for what threads do, and for each batch's look at the clock, a few tenths of a microsecond.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib.util
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from contenders import Terminal
from workloads import ring

from fitorch import KerasModel
from fitorch.callbacks.display.notebook import NotebookProgress
from fitorch.callbacks.display.progress import Progress

ON_A_TERMINAL: dict[str, dict[str, Any]] = {"silent": {"verbose": 0}, "live line, table": {}}
IN_A_NOTEBOOK = ON_A_TERMINAL | {"live line, table": {"plot": False}, "and live plot": {}}

Turns = list[dict[str, "Times"]]


class Times(NamedTuple):
    """What a fit took, in seconds."""

    cpu: float
    wall: float
    share: float  # of the display's hooks


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=300, help="of each fit")
    arguments = parser.parse_args()
    os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="40")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)
    measured = {"on a terminal": measure_terminal(arguments.turns, arguments.epochs)}
    if importlib.util.find_spec("ipykernel") and importlib.util.find_spec("jupyter_client"):
        measured["in a notebook"] = measure_notebook(arguments.turns, arguments.epochs)
    else:
        print("no notebook is measured: ipykernel is not installed", file=sys.stderr)
    print(f"ring, fits of {arguments.epochs} epochs, {arguments.turns} turns, one thread.\n")
    print(
        "| display | silent, us a step | CPU, x silent | quartiles | wall, x silent | its hooks |"
    )
    print("|---|---|---|---|---|---|")
    for where, turns in measured.items():
        for line in rows(where, turns, arguments.epochs * ring().steps):
            print(line)


def measure_terminal(turns: int, epochs: int) -> Turns:
    """Measure silent fits and shown ones in turn, on a pseudo-terminal."""
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal.file):
        found = take_turns(ON_A_TERMINAL, turns, epochs)
    if not terminal.shown.wait(timeout=1.0):
        message = "fit showed nothing on its terminal: its display was not measured"
        raise RuntimeError(message)
    return found


def measure_notebook(turns: int, epochs: int) -> Turns:
    """Measure silent fits and shown ones in turn, on a kernel of its own."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    pages, printed = [], io.StringIO()

    def receive(message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "error":
            raise RuntimeError("\n".join(content["traceback"]))
        if kind == "stream":
            printed.write(content["text"])
        pages.append("text/html" in content.get("data", ()))

    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import display, json
print(json.dumps(display.take_turns(display.IN_A_NOTEBOOK, {turns}, {epochs})))
"""
    try:
        client.execute_interactive(code, output_hook=receive)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if not any(pages):
        message = "fit showed nothing in its notebook: its display was not measured"
        raise RuntimeError(message)
    found = json.loads(printed.getvalue().splitlines()[-1])
    return [{name: Times(*times) for name, times in turn.items()} for turn in found]


def take_turns(displays: dict[str, dict[str, Any]], turns: int, epochs: int) -> Turns:
    """Train with each display, silently and aloud, turn by turn; the first turn warms up.

    Args:
        displays: Arguments of `fit`, by what they show.
        turns: How often.
        epochs: Epochs of each fit.
    """
    torch.set_num_threads(1)
    fits = {name: make_fit(how) for name, how in displays.items()}
    for fit in fits.values():
        fit(max(epochs // 10, 2))
    found = []
    for turn in range(turns):
        order = list(fits) if turn % 2 else list(reversed(fits))
        times = {name: timed(fits[name], epochs, name != "silent") for name in order}
        found.append({name: times[name] for name in fits})
    return found


def make_fit(how: dict[str, Any]) -> Callable[[int], None]:
    """Return a fit of so many epochs, of a net of its own."""
    workload = ring()
    net = copy.deepcopy(workload.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)
    model = KerasModel(net, workload.loss_fn, {"acc": "acc"}, optimizer)

    def fit(epochs: int) -> None:
        model.fit(
            workload.train, workload.val, epochs=epochs, batch_size=workload.batch_size, **how
        )

    return fit


def timed(fit: Callable[[int], None], epochs: int, shown: bool) -> Times:
    """Return what a fit takes, and the share of its display, which another fit tells."""
    cpu, wall = time.process_time(), time.perf_counter()
    fit(epochs)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Times(cpu, wall, share(fit, epochs) if shown else 0.0)


def share(fit: Callable[[int], None], epochs: int) -> float:
    """Return how much of the CPU time of a fit the hooks of its display take."""
    spent, inside = [0.0], [False]

    def clocked(hook: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(hook)
        def call(*given: Any) -> None:
            if inside[0]:
                return hook(*given)
            inside[0], began = True, time.thread_time()
            try:
                return hook(*given)
            finally:
                inside[0] = False
                spent[0] += time.thread_time() - began

        return call

    with contextlib.ExitStack() as patches:
        for kind in (Progress, NotebookProgress):
            for name in [name for name in vars(kind) if is_clocked(name)]:
                hook = vars(kind)[name]
                patches.enter_context(mock.patch.object(kind, name, clocked(hook)))
        began = time.thread_time()
        fit(epochs)
        return spent[0] / (time.thread_time() - began)


def is_clocked(name: str) -> bool:
    """Tell what works for the display, and is not called for each batch."""
    return name in ("say", "_refresh") or (name.startswith("on_") and "batch" not in name)


def rows(where: str, turns: Turns, steps: int) -> list[str]:
    """Return a row of the table for each display.

    Args:
        where: Where they were shown.
        turns: What their fits took, and the silent ones.
        steps: Training steps of a fit.
    """
    lines = []
    for name in [name for name in turns[0] if name != "silent"]:
        pairs = [(turn[name], turn["silent"]) for turn in turns]
        cpu = sorted(shown.cpu / silent.cpu for shown, silent in pairs)
        low, middle, high = statistics.quantiles(cpu, n=4, method="inclusive")
        wall = statistics.median(shown.wall / silent.wall for shown, silent in pairs)
        silent = 1e6 * statistics.median(times.cpu for _, times in pairs) / steps
        share = statistics.median(shown.share for shown, _ in pairs)
        lines.append(
            f"| {where}: {name} | {silent:.0f} | {middle:.3f} | {low:.3f}-{high:.3f} | {wall:.3f} "
            f"| {share:.1%} |"
        )
    return lines


if __name__ == "__main__":
    main()
