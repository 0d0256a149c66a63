"""What fitorch does on a real GPU: correctness, waits, memory and speed, as a table.

python benchmarks/gpu_check.py                       all checks, if there is an accelerator
python benchmarks/gpu_check.py --device cpu          the checks that make sense there
python benchmarks/gpu_check.py --only resume waits   checks whose name contains one of these words
python benchmarks/gpu_check.py --budget 400          seconds, after which the rest is skipped
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback

import torch
from gpu_checks import common, data, failures, figures, processes, resuming, speed, waits
from gpu_checks.common import CHECKS, Check

from fitorch.devices.accelerators import HOST, accelerator_type, default_device, described

# Importing them has added their checks to the list.
MODULES = figures, resuming, data, failures, waits, speed, processes


def run(check: Check, *, show_traceback: bool = False) -> tuple[str, str]:
    """Run a check; return "ok", "WRONG", "ERROR" or "-", and what was found."""
    try:
        right, text = check.run()
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        return "ERROR", f"{type(error).__name__}: {first[:200]}"
    return ("-" if right is None else "ok" if right else "WRONG"), text


def main() -> int:
    """Print the table; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu",))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--budget", type=float, default=480.0)
    parser.add_argument("--traceback", action="store_true")
    options = parser.parse_args()
    if options.device == "cpu":
        common.use_cpu()
    elif accelerator_type() is None:
        print(f"skipped: {len(CHECKS)} checks need an accelerator (--device cpu runs some)")
        return 0
    print(f"torch {torch.__version__}, {_name()}", flush=True)
    print(f"{'check':<40}{'result':<9}{'s':>6}  what was found")
    begin, wrong = time.perf_counter(), 0
    for check in CHECKS:
        chosen = not options.only or any(word in check.name for word in options.only)
        if not chosen or (check.needs_gpu and options.device == "cpu"):
            continue
        start = time.perf_counter()
        if start - begin > options.budget:
            print(f"{check.name:<40}{'no time':<9}")
            continue
        result, text = run(check, show_traceback=options.traceback)
        wrong += result in ("WRONG", "ERROR")
        print(f"{check.name:<40}{result:<9}{time.perf_counter() - start:6.1f}  {text}", flush=True)
        gc.collect()
    print(f"{wrong} wrong; {time.perf_counter() - begin:.0f} s")
    return int(wrong > 0)


def _name() -> str:
    return described(HOST if common.device() == "cpu" else default_device())


if __name__ == "__main__":
    sys.exit(main())
