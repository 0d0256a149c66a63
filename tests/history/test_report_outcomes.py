"""The report of a run says whether it is complete, and why it ended."""

import pytest
import torch

from fitorch.callbacks import Callback, TerminateOnNaN
from history.report_pages import fit, make_model, read


class At(Callback):
    """Does something at the beginning of an epoch, counted from 0."""

    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.act(self)


def raises(error):
    def act(callback):
        raise error

    return act


def stop(callback):
    callback.model.stop_training = True


def test_early_stopping_is_the_reason(tmp_path, undrawn):
    model = make_model(optimizer=lambda p: torch.optim.SGD(p, 0.0))
    fit(model, epochs=20, patience=3)
    page = read(model.history, tmp_path / "report.html")
    assert "stopped early" in page.text
    assert page.facts["reason"] == "val_loss did not improve for 3 epochs"
    assert page.facts["weights"] == "the net has those of epoch 1"
    assert "epochs\n4\nof 20" in page.text


def test_a_callback_that_stops_is_the_reason(tmp_path, undrawn):
    model = make_model()
    fit(model, callbacks=[At(1, stop)])
    page = read(model.history, tmp_path / "report.html")
    assert page.facts["reason"] == "stop_training was set"
    assert "stopped early" in page.text


def test_an_error_is_told_with_its_message(tmp_path, undrawn):
    model = make_model()
    with pytest.raises(ZeroDivisionError):
        fit(model, callbacks=[At(2, raises(ZeroDivisionError("on\npurpose")))])
    page = read(model.history, tmp_path / "report.html")
    assert "failed" in page.text
    assert page.facts["reason"] == "ZeroDivisionError was raised"
    assert "ZeroDivisionError: on\npurpose" in page.text
    assert "raised by At.on_epoch_begin(2, logs)" in page.text
    assert len(page.rows) == 3


def test_a_long_error_is_cut(tmp_path, undrawn):
    model = make_model()
    with pytest.raises(OSError, match="x"):
        fit(model, callbacks=[At(1, raises(OSError("x" * 100_000)))])
    assert model.history.to_html(tmp_path / "report.html").stat().st_size < 30_000


def test_an_error_whose_text_cant_be_had_is_told_by_its_class(tmp_path, undrawn):
    class Strange(Exception):
        def __str__(self):
            raise RuntimeError

    model = make_model()
    with pytest.raises(Strange):
        fit(model, callbacks=[At(1, raises(Strange()))])
    assert read(model.history, tmp_path / "report.html").facts["reason"] == "Strange was raised"


def test_an_interrupt_is_none_of_the_errors(tmp_path, undrawn):
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[At(1, raises(KeyboardInterrupt()))])
    page = read(model.history, tmp_path / "report.html")
    assert "interrupted" in page.text.splitlines()[:4]
    assert page.facts["reason"] == "interrupted"


def test_an_error_that_was_there_before_the_fit_did_not_end_it(tmp_path, undrawn):
    model = make_model()
    try:
        raise LookupError
    except LookupError:
        fit(model)
    page = read(model.history, tmp_path / "report.html")
    assert page.facts["reason"] == "all requested epochs are trained"


def test_a_loss_that_is_no_number_and_forgiven_is_a_reason_to_stop(tmp_path, undrawn):
    model = make_model()

    def spoil(callback):
        callback.model.net.weight.data.fill_(float("nan"))

    fit(model, callbacks=[At(1, spoil), TerminateOnNaN()])
    page = read(model.history, tmp_path / "report.html")
    assert "stopped early" in page.text
    assert "nan" in page.facts["reason"].lower()


def test_a_report_may_be_written_while_training_goes_on(tmp_path, undrawn):
    pages = []
    model = make_model()
    fit(
        model,
        callbacks=[At(2, lambda c: pages.append(read(c.model.history, tmp_path / "now.html")))],
    )
    assert "in training" in pages[0].text
    assert pages[0].facts["reason"] == "it has not: this was written while it trained"
    assert "epochs\n2\nof 3" in pages[0].text


def test_several_fits_are_told_one_by_one(tmp_path, undrawn):
    model = make_model()
    fit(model, epochs=2)
    with pytest.raises(ZeroDivisionError):
        fit(model, epochs=2, callbacks=[At(3, raises(ZeroDivisionError()))])
    fit(model, epochs=1, seed=5)
    page = read(model.history, tmp_path / "report.html")
    start = page.rows.index(["epochs", "status", "why it ended", "time"])
    assert [row[:3] for row in page.rows[start + 1 :]] == [
        ["1 to 2", "complete", "all requested epochs are trained"],
        ["3", "failed", "ZeroDivisionError was raised"],
        ["4", "complete", "all requested epochs are trained"],
    ]
    assert page.facts["seed"] == "5"
    assert "Settings of the last fit" in page.text
