"""What a notebook shows: by a recorder in place of IPython's display, and on a real kernel."""

import base64
import io
import re
from itertools import pairwise

import matplotlib.image
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.callbacks import notebook as module
from fitorch.callbacks.notebook import NotebookProgress

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
    for name in ("fitorch.watching", "fitorch.measuring", "fitorch.model"):
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

    def draw(history, monitor):
        drawn.append(now[0])
        now[0] += 0.1
        return ""

    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "_picture", draw)

    class Wait(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            now[0] += 0.5

    make_model().fit(DATA, DATA, epochs=40, callbacks=[Wait()])
    pauses = [after - before for before, after in pairwise(drawn[:-1])]
    assert pauses
    assert min(pauses) >= 0.1 / 0.02


def test_the_output_stays_small(outputs):
    make_model().fit(DATA, DATA, epochs=200, batch_size=64)
    html = outputs[0].html
    assert len(html) < 300_000
    assert len(rows(html)) == 13
    assert "188 epochs before, all of them in model.history.frame" in html
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
    monkeypatch.setattr("fitorch.callbacks.progress._SHARE", 1e9)
    make_model().fit(DATA, DATA, epochs=2, batch_size=8)
    pages = [state["text/html"] for state in outputs[0].states]
    live = [re.sub(r"<[^>]+>", "", page) for page in pages if "white-space:pre" in page]
    assert any(re.search(r"epoch 1/2.*[1-8]/8.*train_loss", text) for text in live)
    assert any("validating" in text for text in live)


def test_text_is_there_for_where_html_is_not_shown(outputs):
    make_model().fit(DATA, DATA, epochs=2)
    text = outputs[0].states[-1]["text/plain"]
    assert text.splitlines()[0] == "training Linear, 4 parameters, on cpu"
    assert "best epoch 2" in text


def test_an_evaluation_leaves_nothing(outputs):
    make_model().evaluate(DATA)
    assert re.sub(r"<[^>]+>", "", outputs[0].html) == ""


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
frame = model.fit((x, x[:, :1]), validation_split=0.25, epochs=30, seed=0)
""",
    "frame = model.fit((x, x[:, :1]), validation_split=0.25, epochs=2, plot=False)",
    "scores = model.evaluate((x, x[:, :1])); len(frame)",
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_on_a_real_kernel(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    first, second, third = ([*cell.outputs] for cell in notebook.cells)
    (fit,) = first  # one output, however often it was updated
    assert fit["data"]["text/plain"].startswith("training Linear")
    assert rows(fit["data"]["text/html"])[-1][0] == "30/30"
    assert picture(fit["data"]["text/html"]).std() > 0.05
    (again,) = second
    assert [row[0] for row in rows(again["data"]["text/html"])[1:]] == ["31/32", "32/32"]
    assert "<img" not in again["data"]["text/html"]
    assert third[-1]["data"]["text/plain"] == "32"
    assert not list(tmp_path.iterdir())
