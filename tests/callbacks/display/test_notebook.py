"""What a notebook shows: by a recorder in place of IPython's display, and on a real kernel."""

import base64
import io
import re
import sys
from itertools import pairwise

import matplotlib.figure
import matplotlib.image
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.callbacks.display import notebook as module
from fitorch.callbacks.display.notebook import NotebookProgress

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
DATA = (X, X.sum(1, keepdim=True))


class Output:
    """A cell's output, which remembers each of its states."""

    def __init__(self, data):
        self.states = [data]

    def update(self, data, raw):
        assert raw
        self.states.append(data)

    @property
    def html(self):
        return self.states[-1]["text/html"]


@pytest.fixture
def outputs(monkeypatch):
    shown = []

    def display(data, raw, display_id):
        assert raw
        assert display_id
        shown.append(Output(data))
        return shown[-1]

    monkeypatch.setattr("IPython.display.display", display)
    for name in ("fitorch.fitting.callback_setup", "fitorch.fitting.evaluate", "fitorch.model"):
        monkeypatch.setattr(f"{name}.in_notebook", lambda: True)
    return shown


def make_model():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "adam")


def rows(html):
    found = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.sub(r"<[^>]+>|&nbsp;|[↓↑★]", " ", row).split() for row in found]


def picture(html):
    (found,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(found)), format="png")


def test_a_fit_has_one_output_with_a_row_per_epoch(outputs):
    frame = make_model().fit(DATA, DATA, epochs=3, seed=0)
    (output,) = outputs
    heads, *epochs = rows(output.html)
    assert heads == ["epoch", "train_loss", "train_mae", "lr", "val_loss", "val_mae", "time"]
    assert [row[0] for row in epochs] == ["1/3", "2/3", "3/3"]
    for row, loss in zip(epochs, frame["train_loss"], strict=True):
        assert float(row[1]) == pytest.approx(loss, rel=1e-3)
    assert "training Linear, 4 parameters, on cpu" in output.html
    assert re.search(r"trained 3 epochs in [\d.]+ s", output.html)


def test_the_plot_shows_the_loss_and_the_monitored_figure(outputs):
    make_model().fit(DATA, DATA, epochs=3, seed=0, monitor="val_mae", patience=9)
    image = picture(outputs[0].html)
    height, width, _ = image.shape
    assert width > 2 * height  # two panels
    assert image[..., :3].std() > 0.05  # not blank
    alone = make_model()
    alone.fit(DATA, DATA, epochs=3, seed=0)
    assert picture(outputs[1].html).shape[1] < width


def test_no_plot_where_it_is_not_wanted_or_has_nothing_to_show(outputs):
    make_model().fit(DATA, DATA, epochs=3, plot=False)
    make_model().fit(DATA, DATA, epochs=1)
    assert len(outputs) == 2
    assert all("<img" not in output.html for output in outputs)


def test_the_plot_is_drawn_once_a_second_and_takes_a_fiftieth_of_the_time(outputs, monkeypatch):
    now, drawn = [0.0], []

    def draw(history, monitor, running, dpi):
        drawn.append(now[0])
        now[0] += 0.1
        return ""

    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "thread_time", lambda: now[0])
    monkeypatch.setattr(module, "_picture", draw)

    class Wait(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            now[0] += 0.5

    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    make_model().fit(DATA, DATA, epochs=8, callbacks=[Wait()])
    assert drawn[:2] == [1.0, pytest.approx(2.1)]  # to load matplotlib does not count
    drawn.clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", matplotlib.figure)
    make_model().fit(DATA, DATA, epochs=80, callbacks=[Wait()])
    pauses = [after - before for before, after in pairwise(drawn[:-1])]
    assert pauses
    assert min(pauses) >= 0.1 / 0.02


def test_an_epoch_that_lasts_is_drawn_while_it_runs(outputs, monkeypatch):
    now, drawn = [0.0], []

    def draw(history, monitor, running, dpi):
        curve = {name: list(points) for name, points in running.items()}
        drawn.append((now[0], len(history), curve))
        return ""

    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    monkeypatch.setattr("fitorch.callbacks.display.progress.perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "_picture", draw)
    losses = []

    class Wait(Callback):
        def on_train_batch_end(self, batch, logs=None):
            now[0] += 0.5
            losses.append(logs["train_loss"])

    make_model().fit(DATA, epochs=2, batch_size=4, callbacks=[Wait()])
    pauses = [after[0] - before[0] for before, after in pairwise(drawn[:-1])]
    assert min(pauses) >= 1.0
    within = [(epochs, curve) for at, epochs, curve in drawn[:-1] if at % 8.0]
    assert {epochs for epochs, _ in within} == {0, 1}
    first = next(curve for epochs, curve in within if epochs == 0)
    assert set(first) == {"train_loss", "train_mae"}
    second = next(curve for epochs, curve in reversed(within) if epochs == 1)
    for x, loss in second["train_loss"]:  # up to its last drawing
        assert 1 < x <= 2
        assert loss == losses[round(16 * x) - 1]
    assert drawn[-1][1:] == (2, {})  # in the picture that stays a point stands for each epoch


def test_short_epochs_are_drawn_only_once_they_are_over(outputs, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "_picture", lambda *given: drawn.append(given) or "")
    monkeypatch.setattr(module, "_MIN_PAUSE", 0.0)
    monkeypatch.setattr(module, "_SHARE", 1e9)
    monkeypatch.setattr(NotebookProgress, "pause", 0.0)
    make_model().fit(DATA, epochs=3, batch_size=4)
    assert len(drawn) > 1
    assert not any(running for _, _, running, _ in drawn)


def test_a_curve_is_thinned():
    callback = NotebookProgress(plot=True)
    for batch in range(1, 10_001):
        callback._add_points(batch / 10_000, {"train_loss": 1.0 / batch, "note": "no number"})
    (points,) = callback._curve.values()
    assert 50 <= len(points) <= 121
    assert points[0] == (1e-4, 1.0)
    assert points == sorted(points)
    assert points[-1][0] > 0.97


def test_a_plot_that_fails_is_told_once_and_training_goes_on(outputs, monkeypatch):
    def fail(*given):
        message = "no font"
        raise RuntimeError(message)

    monkeypatch.setattr(module, "_picture", fail)
    with pytest.warns(UserWarning, match="no live plot: no font") as told:
        frame = make_model().fit(DATA, epochs=5)
    assert len(told) == 1
    assert len(frame) == 5


def test_heads_end_where_their_numbers_end(outputs):
    make_model().fit(DATA, DATA, epochs=3, seed=0)
    heads, *epochs = re.findall(r"<tr>(.*?)</tr>", outputs[0].html)
    room = [re.findall(r"inline-block[^>]*>(.*?)</span></th>", cell) for cell in cells_of(heads)]
    assert room == [[], [""], [""], [""], [""], [""], []]
    assert "↓" in epochs[-1]
    for row in epochs:
        assert ["inline-block" in cell for cell in cells_of(row)] == list(map(bool, room))


def cells_of(row):
    return re.findall(r"<t[dh].*?</t[dh]>", row)


def test_the_output_stays_small(outputs):
    make_model().fit(DATA, DATA, epochs=200, batch_size=64)
    html = outputs[0].html
    assert len(html) < 300_000
    assert len(rows(html)) == 13
    assert "188 earlier epochs are in model.history.frame" in html
    assert rows(html)[-1][0] == "200/200"


def test_what_comes_from_outside_is_escaped(outputs):
    net = type("<b>Net</b>", (nn.Linear,), {})(3, 1)
    model = KerasModel(net, "mse", {"<i>": lambda p, t: (p - t).abs().mean()})
    model.fit(DATA, DATA, epochs=2)
    assert "<b>Net" not in outputs[0].html
    assert "&lt;b&gt;Net" in outputs[0].html
    assert "train_&lt;i&gt;" in outputs[0].html


def test_an_error_leaves_the_epochs_and_no_live_line(outputs):
    class Fail(Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(self.model.history) == 2:
                message = "on purpose"
                raise ZeroDivisionError(message)

    with pytest.raises(ZeroDivisionError):
        make_model().fit(DATA, DATA, epochs=5, callbacks=[Fail()])
    html = outputs[0].html
    assert [row[0] for row in rows(html)[1:]] == ["1/5", "2/5"]
    assert "white-space:pre" not in html
    assert "ms/step" not in html


def test_the_live_line_tells_how_the_epoch_gets_on(outputs, monkeypatch):
    monkeypatch.setattr(NotebookProgress, "pause", 0.0)
    monkeypatch.setattr("fitorch.callbacks.display.progress._SHARE", 1e9)
    make_model().fit(DATA, DATA, epochs=2, batch_size=8)
    pages = [state["text/html"] for state in outputs[0].states]
    live = [re.sub(r"<[^>]+>", "", page) for page in pages if "white-space:pre" in page]
    assert any(re.search(r"epoch 1/2.*[1-8]/8.*train_loss", text) for text in live)
    assert any("validating" in text for text in live)


def test_text_is_there_for_where_html_is_not_shown(outputs):
    make_model().fit(DATA, DATA, epochs=2)
    text = outputs[0].states[-1]["text/plain"]
    first, _, epoch, _, last = text.splitlines()
    assert first == "training Linear, 4 parameters, on cpu"
    assert re.fullmatch(r"epoch 2/2  train_loss [\d.]+ .* val_loss [\d.]+ \*  val_mae .* s", epoch)
    assert last.startswith("best epoch 2")


def test_text_has_the_best_and_the_last_epoch(outputs):
    callback = NotebookProgress(monitor="val_loss")
    callback.set_params({"epochs": 4})
    callback.on_train_begin()
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 4.0]):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"val_loss": loss})
    callback.on_train_end()
    text = outputs[0].states[-1]["text/plain"]
    assert re.findall(r"^epoch (\d)/4  val_loss ([\d.]+)( \*)?", text, re.MULTILINE) == [
        ("2", "1.000", " *"),
        ("4", "4.000", ""),
    ]


def test_an_evaluation_leaves_nothing(outputs):
    make_model().evaluate(DATA)
    assert re.sub(r"<[^>]+>", "", outputs[0].html).strip() == ""


def test_verbose_chooses(outputs, capsys):
    make_model().fit(DATA, epochs=1, verbose=0)
    assert not outputs
    make_model().fit(DATA, epochs=1, verbose=2)
    assert not outputs
    assert "epoch 1/1" in capsys.readouterr().out


def test_a_path_is_written_and_true_is_not(outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_model().fit(DATA, epochs=2, plot=True)
    assert not list(tmp_path.iterdir())
    make_model().fit(DATA, epochs=2, plot="mine.png")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert len(outputs) == 2
    assert all("<img" in output.html for output in outputs)


CELLS = (
    """
import torch
from torch import nn
from fitorch import KerasModel

torch.manual_seed(0)
x = torch.randn(256, 3)
model = KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "adam")
frame = model.fit((x, x[:, :1]), validation_split=0.25, epochs=200, seed=0)
""",
    "frame = model.fit((x, x[:, :1]), validation_split=0.25, epochs=2, plot=False)",
    "scores = model.evaluate((x, x[:, :1])); len(frame)",
    """
import os, signal
from fitorch.callbacks import LambdaCallback

stop = LambdaCallback(on_epoch_end=lambda e, logs: e == 203 and os.kill(os.getpid(), signal.SIGINT))
len(model.fit((x, x[:, :1]), epochs=9, callbacks=[stop]))
""",
    """
fail = LambdaCallback(on_epoch_end=lambda e, logs: e == 206 and 1 / 0)
model.fit((x, x[:, :1]), epochs=9, callbacks=[fail])
""",
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_on_a_real_kernel(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=resources, allow_errors=True).execute()
    first, second, third, interrupted, failed = ([*cell.outputs] for cell in notebook.cells)
    (fit,) = first  # one output, however often it was updated
    assert fit["data"]["text/plain"].startswith("training Linear")
    assert rows(fit["data"]["text/html"])[-1][0] == "200/200"
    assert picture(fit["data"]["text/html"]).std() > 0.05
    assert len(nbformat.writes(notebook)) < 300_000
    (again,) = second
    assert [row[0] for row in rows(again["data"]["text/html"])[1:]] == ["201/202", "202/202"]
    assert "<img" not in again["data"]["text/html"]
    assert third[-1]["data"]["text/plain"] == "202"
    page, length = interrupted
    assert [row[0] for row in rows(page["data"]["text/html"])[1:]] == ["203/211", "204/211"]
    assert "stopped after epoch 204: interrupted" in page["data"]["text/html"]
    assert length["data"]["text/plain"] == "204"
    page, error = failed
    assert [row[0] for row in rows(page["data"]["text/html"])[1:]][:2] == ["205/213", "206/213"]
    assert error["ename"] == "ZeroDivisionError"
    for cell in (fit, again, page, interrupted[0]):
        assert 'white-space:pre"' not in cell["data"]["text/html"]  # no live line is left
    assert not list(tmp_path.iterdir())
