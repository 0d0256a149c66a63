"""The checks of `make gpu-check`, one test for each: on an accelerator, `pytest -m gpu`."""

import subprocess
import sys
from pathlib import Path

import pytest

from fitorch.devices.accelerators import accelerator_type

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_check.py"


def checks():
    """Return the checks of the script."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        return __import__("gpu_check").CHECKS
    finally:
        sys.path.remove(str(SCRIPT.parent))


CHECKS = checks()


@pytest.mark.gpu
@pytest.mark.skipif(accelerator_type() is None, reason="needs an accelerator")
@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
def test_on_an_accelerator(check):
    right, found = check.run()
    if right is None:
        pytest.skip(found)
    assert right, found


def test_the_script_runs_on_the_cpu_and_skips_the_rest():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--only", "nan", "named", "kept", "precision"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mixed precision" in done.stdout
    assert "0 wrong" in done.stdout
    assert "ERROR" not in done.stdout
