"""Scenarios on the simulated device: functions that raise if the device is not right.

They run in processes of their own, as the simulation holds for the whole of one:

    python tests/devices/scenarios.py outcomes.jsonl devices.training --only fp16
"""

import argparse
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


class Running:
    """A process that runs the scenarios of some modules."""

    def __init__(self, *modules):
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "outcomes.jsonl"
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with this object
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._file), *modules],
            stdout=self._printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        )

    def outcomes(self):
        """Return what the scenarios have left, by module and name; an outcome is

        `{"error": None or a traceback, "value": what it returned, "seconds": how long it took}`.
        """
        self._process.wait(300)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        found = {}
        for outcome in map(json.loads, lines):
            found.setdefault(outcome.pop("module"), {})[outcome.pop("name")] = outcome
        return found

    def printed(self):
        """Return the end of what was printed, for messages."""
        self._printed.seek(0)
        return self._printed.read()[-3000:]

    def close(self):
        self._process.kill()
        self._process.wait()
        self._printed.close()
        self._folder.cleanup()


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--only", default="", help="a part of the names")
    asked = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    import simulated_device  # noqa: F401 - before all else, for its effect

    torch.set_num_threads(1)
    with Path(asked.file).open("w") as lines:  # a process that dies has left what came before
        for module in asked.modules:
            for name, function in importlib.import_module(module).SCENARIOS.items():
                if asked.only in name:
                    outcome = {"module": module, "name": name, **run_one(function)}
                    lines.write(json.dumps(outcome) + "\n")
                    lines.flush()


if __name__ == "__main__":
    main()
