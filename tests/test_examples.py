"""Every example runs as a user would run it, and shows what it promises."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from fitorch.randomness import undisturbed_randomness

EXAMPLES = Path(__file__).parent.parent / "examples"
PROMISES = {
    # the line to find, the least figure in it, the files it leaves
    "quickstart.py": (r"test accuracy ([\d.]+)$", 0.95, []),
    "digits.py": (
        r"test accuracy ([\d.]+)",
        0.97,
        ["history.png", "runs/digits/best.safetensors", "runs/digits/report.html"],
    ),
    "by_hand.py": (r"with val_acc ([\d.]+)$", 0.95, ["by_hand.png"]),
    "diabetes.py": (
        r"test R2 ([\d.]+)$",
        0.3,
        ["runs/diabetes/history.png", "runs/diabetes/residuals.png"],
    ),
    "find_lr.py": (r"as suggested: test accuracy ([\d.]+)$", 0.94, ["runs/find_lr/rates.png"]),
    "optimizers.py": (r"best accuracies: ([\d.]+)$", 0.88, []),
    "gan.py": (r"near made points: ([\d.]+)$", 0.95, ["runs/gan/ring.png"]),
    "transformer.py": (r"without a fault: ([\d.]+)$", 0.95, []),
    "text_classifier.py": (r"test accuracy ([\d.]+)$", 0.98, []),
    "centers.py": (r"digit_acc ([\d.]+)$", 0.9, []),
    "grid_search.py": (r"on the test set: ([\d.]+)$", 0.97, []),
    "imbalanced.py": (r"val_auc ([\d.]+)$", 0.97, []),
    "on_disk.py": (r"^val_acc ([\d.]+)$", 0.95, []),
    "shifted.py": (r"clean acc ([\d.]+)$", 0.95, []),
    "two_inputs.py": (r"severe_acc ([\d.]+)$", 0.8, []),
    "noisy_labels.py": (r"symmetric cross entropy and L2: ([\d.]+)$", 0.93, []),
    "faster.py": (r"test accuracy ([\d.]+)", 0.93, []),
    "averaged.py": (r"exponential mean: ([\d.]+)$", 0.96, []),
    "resume.py": (
        r"best val_acc ([\d.]+)$",
        0.8,
        ["runs/resume/best.safetensors", "runs/resume/history.csv"],
    ),
    "processes.py": (r"accuracy ([\d.]+)$", 0.88, ["runs/processes/best.safetensors"]),
    "tracked.py": (r"val_auc ([\d.]+)$", 0.97, []),
    "autoencoder.py": (r"explained ([\d.]+)$", 0.6, []),
    "ring.py": (
        r"val_auc ([\d.]+)$",
        0.97,
        ["runs/ring/history.png", "runs/ring/best.safetensors"],
    ),
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISES)


SLOW = {"faster.py"}  # it compiles, as docs/faster.md and tests/engine/test_compiled.py do too


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PROMISES],
)
def test_example_keeps_its_promise(name, tmp_path, monkeypatch):
    if name == "optimizers.py" and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs torch 2.9")
    line, least, files = PROMISES[name]
    monkeypatch.chdir(tmp_path)
    shown = in_this_process(EXAMPLES / name)
    assert float(re.search(line, shown, flags=re.MULTILINE)[1]) >= least
    for file in files:
        assert (tmp_path / file).stat().st_size > 0


def in_a_process(*command):
    """Run a program as a user does; return what it printed."""
    environment = {**os.environ, "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_this_process(path):
    """Run a program without the seconds that a new interpreter takes to import torch."""
    shown = io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        undisturbed_randomness(),
        mock.patch.object(sys, "argv", [str(path)]),
    ):
        runpy.run_path(str(path), run_name="__main__")
    return shown.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--fsdp"]])
def test_two_processes_of_torchrun_learn_what_one_does(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line, *_ = PROMISES["processes.py"]
    alone = re.search(line, in_this_process(EXAMPLES / "processes.py"), flags=re.MULTILINE)
    together = in_a_process(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(EXAMPLES / "processes.py", *options),
    )
    assert "\n2 with a batch of 30 each" in together
    assert re.findall(line, together, flags=re.MULTILINE) == [alone[1]]


@pytest.mark.parametrize("name", PROMISES)
def test_example_is_short(name):
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60
