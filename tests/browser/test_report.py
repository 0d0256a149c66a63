"""The report of a run in a browser: its text and pictures, on all screens, and in the dark."""

import pytest
import torch
from torch import nn

from browser.chromium import share_of
from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.callbacks.display.number_format import number

pytestmark = pytest.mark.browser
BLUE, STAR = "#0b6bcb", "#d9480f"  # of the line of validation, of the best epoch


class Fails(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 12:
            message = "<b>image 312</b> cannot decode"
            raise RuntimeError(message)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model whose fit ended with an error, and its report."""
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    model = KerasModel(nn.Linear(4, 3), "cross_entropy", {"acc": "acc"}, "adam")
    with pytest.raises(RuntimeError, match="image 312"):
        model.fit(
            (x, x[:, :3].argmax(1)),
            validation_split=0.3,
            epochs=40,
            monitor="val_acc",
            callbacks=[Fails()],
            verbose=0,
        )
    path = model.history.to_html(tmp_path_factory.mktemp("run") / "report.html")
    return model, path.as_uri()


def test_what_is_read_is_what_the_run_was(page, run):
    model, url = run
    page.open(url)
    best, frame = model.history.best, model.history.frame
    assert page.texts("h1") == ["Linear"]
    assert page.texts(".status") == ["failed"]
    assert page.texts(".card .value")[:2] == [number(best["val_acc"]), "12"]
    assert page.texts(".card .note")[0] == f"epoch {best['epoch']:.0f}"
    (error,) = page.texts("pre")
    assert "RuntimeError: <b>image 312</b> cannot decode" in error
    cells = page.texts("tbody tr td:nth-child(5)")
    assert [float(cell) for cell in cells] == pytest.approx(frame["val_loss"].tolist(), rel=1e-3)
    assert page.texts("tr.best td:first-child") == [f"{best['epoch']:.0f} ★"]


def test_the_pictures_are_there_and_nothing_is_asked_from_elsewhere(page, run):
    page.open(run[1])
    sizes = page.pictures()
    assert len(sizes) == 2
    assert all(width > 300 and height > 200 for width, height in sizes)
    assert {url.partition(":")[0] for url in page.requests} == {"file", "data"}
    assert not page.errors
    loss, acc = page.look("img"), page.look("img:nth-of-type(2)")
    for image in (loss, acc):
        assert share_of(image, "#ffffff") > 0.7
        assert share_of(image, BLUE) > 0.001  # the line
    assert share_of(acc, STAR) > 3 * share_of(loss, STAR)


def test_a_picture_that_is_broken_would_be_noticed(page, tmp_path):
    path = tmp_path / "broken.html"
    path.write_text('<img src="data:image/png;base64,AAAA">')
    page.open(path.as_uri())
    assert page.pictures() == [[0, 0]]


@pytest.mark.parametrize("width", [360, 768, 1200, 1900])
def test_it_fits_the_screen(page, run, width):
    page.size(width, 900, phone=width < 500)
    page.open(run[1])
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.evaluate(
        "[...document.querySelectorAll('.card, section, dd, pre, img, h1')].filter("
        "each => each.getBoundingClientRect().right > innerWidth).length"
    )
    assert beyond == 0
    narrow = page.evaluate("Math.min(...[...document.images].map(each => each.clientWidth))")
    assert narrow >= 280


def test_in_the_dark_it_is_dark(page, run):
    page.open(run[1])
    light = page.look()
    page.size(1200, 1000, dark=True)
    dark = page.look()
    assert light.mean() > 0.85
    assert dark.mean() < 0.25
    picture = page.look("img")
    assert picture.mean() < 0.3
    assert picture.max() > 0.7  # the text
