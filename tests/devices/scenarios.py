"""Scenarios on the simulated device: functions that raise if the device is not right.

All scenarios of a module run in one process, as the simulation holds for the whole of it:

    python tests/devices/scenarios.py devices.training outcomes.jsonl [part of a name]
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]


class Scenarios(dict):
    """Name to function."""

    def add(self, function):
        """Add a function under its name, in words."""
        self[function.__name__.replace("_", " ")] = function
        return function

    def add_each(self, prefix, cases):
        """Return a decorator that adds a function with each of some cases, `(name, case)`."""

        def decorate(function):
            for name, case in dict(cases).items():
                self[f"{prefix} {name}"] = lambda case=case: function(case)
            return function

        return decorate


def outcomes(module):
    """Run the scenarios of a module in a new process; return what each has left.

    `{"error": None or a traceback, "value": what it returned, "seconds": how long it took}`
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.jsonl"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        command = [sys.executable, __file__, module, str(file)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        lines = file.read_text().splitlines() if file.exists() else []
    found = {outcome.pop("name"): outcome for outcome in map(json.loads, lines)}
    if run.returncode:
        found["process"] = {"error": (run.stdout + run.stderr)[-3000:]}
    return found


def run_one(function):
    """Run a scenario in a folder of its own; return its outcome."""
    import simulated_device

    simulated_device.reset()
    began, error, value = time.perf_counter(), None, None
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                value = function()
        except Exception:
            error = traceback.format_exc()
    return {"error": error, "value": value, "seconds": time.perf_counter() - began}


def main(module, file, part=""):
    sys.path.insert(0, str(TESTS))
    import simulated_device  # noqa: F401 - before all else, for its effect

    torch.set_num_threads(1)
    scenarios = importlib.import_module(module).SCENARIOS
    with Path(file).open("w") as lines:  # line by line: a process that dies has left the others
        for name, function in scenarios.items():
            if part in name:
                lines.write(json.dumps({"name": name, **run_one(function)}) + "\n")
                lines.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
