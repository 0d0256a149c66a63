import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fitorch import CheckpointNotFoundError, KerasModel, list_checkpoints
from fitorch.__main__ import main


@pytest.fixture
def run(tmp_path):
    """The folder of a run of three epochs, two updates each."""
    torch.manual_seed(0)
    x = torch.randn(12, 2)
    model = KerasModel(nn.Linear(2, 1), "mse", optimizer="sgd")
    options = {"epochs": 3, "batch_size": 6, "seed": 0, "verbose": 0}
    model.fit((x, x[:, :1]), (x, x[:, :1]), ckpt_path=tmp_path / "run", keep=3, **options)
    model.load_ckpt(tmp_path / "run")  # the best weights are the last here
    return tmp_path / "run", model


def damage(folder, name):
    (found,) = (folder / "checkpoints").glob(name)
    with (found / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    return found


def test_lists_the_newest_first(run):
    folder, model = run
    frame = list_checkpoints(folder)
    assert frame["step"].tolist() == [6, 4, 2]
    assert frame["epoch"].tolist() == [3, 2, 1]
    assert frame["batch"].tolist() == [0, 0, 0]
    assert set(frame["monitor"]) == {"val_loss"}
    assert frame["value"].tolist() == model.history.frame["val_loss"].tolist()[::-1]
    assert frame["state"].tolist() == ["whole"] * 3


def test_tells_size_and_age(run):
    folder, _ = run
    frame = list_checkpoints(folder)
    for path, size in zip(frame["path"], frame["size"], strict=True):
        with os.scandir(path) as files:
            assert sum(f.stat().st_size for f in files if f.name != "manifest.json") == size
    assert all(0 <= age < 60 for age in frame["age"])


def test_tells_what_is_wrong(run):
    folder, _ = run
    broken = damage(folder, "*4")
    frame = list_checkpoints(folder)
    assert frame["state"].tolist()[::2] == ["whole", "whole"]
    assert str(broken / "model.safetensors") in frame["state"][1]
    assert "sha256" in frame["state"][1]


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/step-0000000004"])
def test_takes_a_run_its_checkpoints_or_one_of_them(run, part):
    folder, _ = run
    assert 4 in list_checkpoints(folder / part)["step"].tolist()


def test_nothing_to_list_is_an_error(tmp_path):
    with pytest.raises(
        CheckpointNotFoundError, match=re.escape(f"{tmp_path} ({tmp_path}) has no checkpoint")
    ):
        list_checkpoints(tmp_path)


def test_the_command_prints_a_table(run, capsys):
    folder, _ = run
    assert main(["checkpoints", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(folder)[:20] in lines[0]
    header = next(line for line in lines if "step" in line and "epoch" in line)
    assert header.split() == ["step", "epoch", "batch", "val_loss", "size", "age", "state"]
    rows = lines[lines.index(header) + 1 :]
    assert [row.split()[0] for row in rows] == ["6", "4", "2"]
    assert all(row.split()[-1] == "whole" for row in rows)


def test_the_command_verifies(run, capsys):
    folder, _ = run
    assert main(["verify", str(folder)]) == 0
    damage(folder, "*6")
    assert main(["verify", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"step-{step:010d}: whole" for step in (6, 4, 2)]
    assert re.fullmatch(r"step-0000000006: .*model\.safetensors.*sha256.*", lines[3])


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_the_command_exports_weights_for_plain_torch(run, name, capsys, tmp_path):
    folder, model = run
    assert main(["export", str(folder), str(tmp_path / name)]) == 0
    load = load_file if name.endswith("s") else partial(torch.load, weights_only=True)
    net = nn.Linear(2, 1)
    net.load_state_dict(load(tmp_path / name))
    assert torch.equal(net.weight, model.net.weight)
    assert capsys.readouterr().out.strip() == str(tmp_path / name)


def test_the_command_tells_errors_in_a_line(tmp_path, capsys):
    assert main(["checkpoints", str(tmp_path / "none")]) == 1
    assert main(["export", str(tmp_path), str(tmp_path / "x.safetensors")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["fitorch", "fitorch"]
    assert "has no checkpoint" in errors[0]


def test_a_file_to_export_to_has_a_known_suffix(run, tmp_path, capsys):
    folder, _ = run
    assert main(["export", str(folder), str(tmp_path / "net.onnx")]) == 1
    assert "net.onnx must end in .safetensors" in capsys.readouterr().err


def test_it_is_a_command_of_python(run):
    folder, _ = run
    done = subprocess.run(
        [sys.executable, "-m", "fitorch", "verify", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.count("whole") == 3
