"""Scenarios on the simulated device: functions that raise if the device is not right.

They run in processes of their own, as the simulation holds for the whole of one. Run by itself,
this module runs them, and leaves their outcomes in a folder:

    python tests/devices/scenarios.py OUTCOMES devices.training devices.pairs --only fp16
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

# The modules of a line run in one process, beside those of the others: two cores are enough.
MODULES = (
    ("devices.simulation", "devices.training", "devices.nets"),
    ("devices.places", "devices.failing", "devices.resuming", "devices.waiting"),
)
PAIRS = "devices.pairs"  # each of its scenarios is processes of its own

# Whatever each of the processes would import; it takes seconds.
_IMPORTED = ("accelerate", "pandas", "psutil", "torch._dynamo", "torchmetrics.classification")


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
    """A process that runs all scenarios."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with this object
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._folder.name],
            stdout=self._printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            start_new_session=True,
        )

    def outcome(self, module, name):
        """Return what a scenario has left, once its module has been run.

        `{"error": None or a traceback, "value": what it returned, "seconds": how long it took}`
        """
        end, folder = time.monotonic() + 300, Path(self._folder.name)
        while not (folder / f"{module}.done").exists() and time.monotonic() < end:
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        file = folder / f"{module}.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            outcome = json.loads(line)
            if outcome["name"] == name:
                return outcome
        self._printed.seek(0)
        return {"error": f"it was not run: {self._printed.read()[-3000:]}", "value": None}

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
            simulated_device.land()
            assert not simulated_device.races, f"sent too early: {simulated_device.races}"
        except Exception:
            error = traceback.format_exc()
    return {"error": error, "value": value, "seconds": time.perf_counter() - began}


def run_modules(modules, folder, only=""):
    """Run the scenarios whose names have a part; leave a line for each."""
    for module in modules:
        scenarios = importlib.import_module(module)
        run = getattr(scenarios, "run_one", run_one)
        with (folder / f"{module}.jsonl").open("w") as lines:
            for name, function in scenarios.SCENARIOS.items():
                if only in name:
                    lines.write(json.dumps({"name": name, **run(function)}) + "\n")
                    lines.flush()
        (folder / f"{module}.done").touch()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--only", default="", help="a part of the names")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    sys.path.insert(0, str(TESTS))
    import simulated_device  # noqa: F401 - before all else, for its effect

    torch.set_num_threads(1)
    for module in _IMPORTED:
        importlib.import_module(module)
    if asked.modules:
        run_modules(asked.modules, asked.folder, asked.only)
        return
    for modules in MODULES:
        if not os.fork():
            try:
                run_modules(modules, asked.folder)
            finally:
                os._exit(0)
    for _ in MODULES:
        os.wait()
    run_modules([PAIRS], asked.folder)


if __name__ == "__main__":
    main()
