"""Where training runs: real processes without a display, colours, Unicode, or anybody listening."""

import json
import os
import subprocess
import sys

import pyte
import pytest

SCRIPT = """
import json, sys
sys.modules["IPython"] = None  # as where it is not installed

import torch
from torch import nn
from fitorch import KerasModel

path, picture = sys.argv[1:]
torch.manual_seed(0)
x = torch.randn(64, 3)
metrics = {"mean_absolute_error_of_all": lambda p, t: (p - t).abs().mean()}
model = KerasModel(nn.Linear(3, 1), "mse", metrics, "adam")
frame = model.fit(
    (x, x[:, :1]), (x, x[:, :1]), epochs=30, plot=picture, seed=0,
    monitor="val_mean_absolute_error_of_all", mode="min",
)
with open(path, "w") as file:
    json.dump({"epochs": list(frame["epoch"]), "loss": list(frame["val_loss"])}, file)
"""


@pytest.fixture
def start(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    left_out = {"CI", "DISPLAY", "WAYLAND_DISPLAY", "FORCE_COLOR", "NO_COLOR"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}

    def begin(picture, stdout, **environment):
        return subprocess.Popen(
            [sys.executable, script, tmp_path / "found.json", tmp_path / picture],
            env=kept | environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def on_terminal(start, picture, **environment):
    """Return what a process wrote to a terminal of 80 columns, its warnings and its exit status."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = start(picture, theirs, COLUMNS="80", **environment)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(ours)
    return written, process.communicate(timeout=60)[1], process.returncode


def shown(written):
    screen = pyte.Screen(80, 60)
    pyte.ByteStream(screen).feed(written)
    return [line.rstrip() for line in screen.display if line.strip()]


def check_trained(tmp_path):
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["epochs"] == list(range(1, 31))
    assert found["loss"][-1] < found["loss"][0]


def test_nobody_listens_and_no_picture_can_be_drawn(start, tmp_path):
    process = start("a.png", subprocess.PIPE, MPLBACKEND="nonsense")
    assert process.stdout.readline() == "training Linear, 4 parameters, on cpu\n"
    process.stdout.close()  # as `| head -1`
    warnings = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    check_trained(tmp_path)
    assert warnings.count("UserWarning") == 1
    assert "cannot save the plot" in warnings
    assert "nonsense" in warnings
    assert "Traceback" not in warnings
    assert not (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_a_dumb_terminal_and_a_window_without_a_display(start, tmp_path):
    written, warnings, status = on_terminal(start, "a.png", TERM="dumb", MPLBACKEND="tkagg")
    assert (status, warnings) == (0, "")
    assert b"\x1b" not in written
    lines = written.decode().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == [
        f"{number}/30" for number in range(1, 31)
    ]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    check_trained(tmp_path)


def test_a_terminal_without_unicode_and_a_picture_under_a_file(start, tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    picture = "script.py/a.png"
    written, warnings, status = on_terminal(start, picture, TERM="xterm", **ascii_only)
    assert status == 0
    assert warnings.count("UserWarning") == 1
    assert "cannot save the plot" in warnings
    assert written.isascii()
    lines = shown(written)
    head = next(line for line in lines if "epoch " in line)
    assert "val_mean_absolute_error_.." in head
    assert "?" not in "".join(lines)
    rows = [line for line in lines if "/30 " in line]
    assert len(rows) == 30
    assert [row.count(" * ") for row in rows] == [1] * 30  # it gets better in each epoch
    assert lines[-1].startswith("best epoch 30")
    check_trained(tmp_path)
