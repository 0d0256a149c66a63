"""JupyterLab itself: a cell that fits is watched while it runs."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import nbformat
import pytest

from browser.chromium import share_of, wait_for

pytestmark = pytest.mark.browser
NO_UPDATES = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
SECONDS = 45  # that the fit takes: a slow machine draws only every 20 or 30
BLUE = "#0b6bcb"  # of the line of validation
OUTPUT = ".jp-OutputArea-output"
PICTURE = f"{OUTPUT} img"
KERNEL = (
    "[...jupyterapp.shell.widgets('main')].find(each => each.sessionContext)"
    "?.sessionContext.session?.kernel"
)
CELL = f"""
import time
import torch
from torch import nn
from fitorch import KerasModel
from fitorch.callbacks import Callback

torch.manual_seed(0)
x = torch.randn(640, 3)


class Slow(Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep({SECONDS} / 30 / 20)


model = KerasModel(nn.Linear(3, 1), "mse", {{"mae": "mae"}}, "adam")
frame = model.fit((x, x[:, :1]), (x, x[:, :1]), epochs=30, callbacks=[Slow()], seed=0)
"""


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with `fit.ipynb`, which knows nothing of the user's settings."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("there is no JupyterLab; pip install jupyterlab")
    work, runtime = tmp_path / "work", tmp_path / "runtime"
    work.mkdir()
    cells = [nbformat.v4.new_code_cell(CELL)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, work / "fit.ipynb")
    own = {
        "JUPYTER_RUNTIME_DIR": runtime,
        "JUPYTER_CONFIG_DIR": tmp_path / "config",
        "JUPYTER_DATA_DIR": tmp_path / "data",
        "IPYTHONDIR": tmp_path / "ipython",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={work}"]
    command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=" + NO_UPDATES]
    with (tmp_path / "lab.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **{name: str(value) for name, value in own.items()}},
            stdout=log,
            stderr=log,
        )
    try:
        told = wait_for(lambda: [*runtime.glob("jpserver-*.json")], 60, "JupyterLab")
        yield wait_for(lambda: _address(told[0]), 10, "its address")
    finally:
        process.terminate()
        process.wait(30)


def _address(file):
    try:
        return json.loads(file.read_text())["url"]
    except ValueError:  # half written
        return None


class Screen:
    """What the cell's output shows at a moment: its text, its picture, and both as they look."""

    def __init__(self, page, folder, name):
        self.text, self.source, self.outputs = page.evaluate(
            f"(() => {{ const all = document.querySelectorAll({OUTPUT!r}); "
            "return [all[0].innerText, all[0].querySelector('img').src, all.length]; })()"
        )
        page.look(path=folder / f"{name}.png")  # for people, where the test fails
        self.plot = page.look(f"{OUTPUT} img")
        cells = [line.split()[0] for line in self.text.splitlines() if line.split()]
        self.epochs = [int(cell.removesuffix("/30")) for cell in cells if cell.endswith("/30")]
        self.live = next((line for line in self.text.splitlines() if line.startswith("epoch ")), "")


def test_the_bar_moves_and_the_plot_changes_in_place(page, lab, tmp_path):
    page.size(1200, 1300)
    page.open(f"{lab}lab/tree/fit.ipynb?reset")
    page.wait("document.querySelector('.jp-Notebook .cm-content') !== null", 60)
    page.wait(f"{KERNEL}?.connectionStatus === 'connected' && {KERNEL}.status === 'idle'", 60)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait(f"document.querySelector({PICTURE!r})?.naturalWidth > 200", 60)
    before = Screen(page, tmp_path, "before")
    time.sleep(3)
    page.wait(f"document.querySelector({PICTURE!r}).src != {before.source!r}", 60)
    after = Screen(page, tmp_path, "after")
    page.wait(f"document.querySelector({OUTPUT!r}).innerText.includes('trained 30 epochs')", 60)
    page.wait(f"{KERNEL}.status === 'idle'", 60)  # the last picture comes behind the last words
    last = Screen(page, tmp_path, "last")

    assert before.live.startswith("epoch ")
    assert after.live.startswith("epoch "), "the plot changed only at the end"
    assert before.live != after.live
    assert max(before.epochs, default=0) < max(after.epochs) < 30
    assert _apart(before.plot, after.plot)
    assert max(last.epochs) == 30
    assert _apart(after.plot, last.plot)
    assert [screen.outputs for screen in (before, after, last)] == [1, 1, 1]
    assert min(share_of(screen.plot, BLUE) for screen in (after, last)) > 0.001


def _apart(first, second):
    """Say whether two pictures look different."""
    return first.shape != second.shape or float((abs(first - second) > 0.2).mean()) > 0.002
