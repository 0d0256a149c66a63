"""The checks of `make gpu-check`, one test for each: on an accelerator, `pytest -m gpu`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks" / "gpu"


def checks():
    """Return the checks, as benchmarks/gpu lists them."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("gpu_checks", FOLDER / "__main__.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module.CHECKS


CHECKS = checks()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
def test_on_an_accelerator(check):
    right, found = check.run()
    if right is None:
        pytest.skip(found)
    assert right, found


def test_the_script_runs_on_the_cpu_and_skips_the_rest():
    done = subprocess.run(
        [sys.executable, FOLDER, "--device", "cpu", "--only", "nan", "named", "kept", "precision"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mixed precision" in done.stdout
    assert "0 wrong" in done.stdout
    assert "ERROR" not in done.stdout
