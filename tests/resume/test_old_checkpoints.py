"""Checkpoints of commit eecb89b resume: `old_run.py` says how they were written."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fitorch.checkpoint.listing import list_checkpoints
from fitorch.checkpoint.store import CheckpointStore
from resume.old_run import CUTS, EPOCHS, STEPS, fit

FIXTURES = Path(__file__).parent / "fixtures"

# The fixtures' first 10 or 12 updates come from another machine, whose kernels may add in another
# order. That is some 1e-7 of each float32 sum; 20 updates of Adam let it grow, but not to 1e-3.
RELATIVE = 1e-3

# Another machine, or another version of torch, is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::fitorch.NotBitExactWarning")


def newest(folder):
    """Return the state in a run's newest checkpoint, without what differs between any two runs."""
    parts = CheckpointStore(folder / "checkpoints").newest_good().read()
    history = parts["state"]["history"]
    del history["columns"]["seconds"], history["seconds"]
    return parts


def assert_alike(left, right, where=""):
    """Compare two states: exactly, but for the rounding of floating-point numbers."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_alike(left[name], right[name], f"{where}[{name!r}]")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_alike(*pair, f"{where}[{number}]")
    elif isinstance(left, torch.Tensor) and left.is_floating_point():
        torch.testing.assert_close(left, right, rtol=RELATIVE, atol=1e-5, msg=where)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, float):
        assert math.isclose(left, right, rel_tol=RELATIVE, abs_tol=1e-5), where
    else:
        assert left == right, where


@pytest.mark.parametrize("name", CUTS)
def test_an_old_run_ends_as_one_that_was_never_cut(tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / name, run)
    assert list_checkpoints(run)[["step", "epoch", "batch", "state"]].values.tolist() == [
        [CUTS[name], CUTS[name] // STEPS, CUTS[name] % STEPS, "whole"]
    ]
    resumed = fit(name, run, resume=True)
    whole = fit(name, tmp_path / "whole")
    assert resumed.history.epoch == list(range(EPOCHS))
    assert list_checkpoints(run)["step"].max() == EPOCHS * STEPS
    frames = [model.history.frame.drop(columns="seconds") for model in (resumed, whole)]
    assert_alike(*(frame.to_dict("list") for frame in frames))
    assert_alike(frames[0]["lr"].tolist(), [0.03 * 0.8**epoch for epoch in range(EPOCHS)])
    assert_alike(*(dict(model.net.state_dict()) for model in (resumed, whole)))
    assert_alike(newest(run), newest(tmp_path / "whole"))


@pytest.mark.parametrize("name", CUTS)
def test_an_old_run_keeps_its_history_and_its_best_weights(tmp_path, name):
    shutil.copytree(FIXTURES / name, tmp_path / "run")
    model = fit(name, tmp_path / "run", resume=True)
    rows = (FIXTURES / name / "history.csv").read_text().splitlines()
    assert (tmp_path / "run/history.csv").read_text().splitlines()[: len(rows)] == rows
    model.load_ckpt(FIXTURES / name / "best.safetensors")
    saved = load_file(FIXTURES / name / "best.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.net.state_dict().items())
