"""The report of a run, read as a browser reads it, and compared with what the run was."""

import base64
import platform
import re
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import accelerate
import pytest
import torch
from torch import nn

from fitorch import History, VLog
from fitorch.callbacks import Callback, EarlyStopping
from fitorch.callbacks.display.number_format import number
from fitorch.history.report_sections import chosen_rows
from fitorch.losses import L2, FocalLoss
from history.report_pages import X, fit, make_model, read
from repositories import git


def test_the_page_tells_what_the_history_says(tmp_path):
    model = make_model(metrics_dict={"mae": "mae"})
    frame = fit(model, epochs=4, monitor="val_mae")
    page = read(model.history, tmp_path / "report.html")
    heads, *rows = page.rows
    assert heads == ["epoch", "train_loss", "train_mae", "lr", "val_loss", "val_mae", "time"]
    assert len(rows) == len(frame)
    for row, (_, truth) in zip(rows, frame.iterrows(), strict=True):
        assert int(row[0]) == truth["epoch"]
        for name in ("train_loss", "train_mae", "val_loss", "val_mae"):
            assert float(row[heads.index(name)]) == pytest.approx(truth[name], rel=1e-3)
        assert float(row[heads.index("lr")]) == 0.001
    best = int(frame["val_mae"].argmin())
    assert page.marked[1:] == [row == best for row in range(4)]
    assert f"best val_mae\n{number(frame['val_mae'].min())}\nepoch {best + 1}" in page.text
    assert "epochs\n4\nof 4" in page.text
    assert "parameters\n4\nLinear" in page.text


def test_each_figure_has_a_picture_that_is_within_the_page(tmp_path):
    model = make_model(metrics_dict={"mae": "mae"})
    fit(model, monitor="val_mae")
    page = read(model.history, tmp_path / "report.html")
    assert [picture["alt"] for picture in page.pictures] == [
        "loss over the epochs",
        "mae over the epochs",
    ]
    for picture, name in zip(page.pictures, ("loss", "mae"), strict=True):
        kind, _, data = picture["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        drawn = ElementTree.fromstring(base64.b64decode(data))
        texts = ["".join(each.itertext()).strip() for each in drawn.iter() if "text" in each.tag]
        assert {name, "epoch", "train", "validation"} <= set(texts)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(", text)
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)


def test_large_pictures_become_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("fitorch.history.report._LARGEST_SVG", 0)
    model = make_model()
    fit(model)
    (picture,) = read(model.history, tmp_path / "report.html").pictures
    kind, _, data = picture["src"].partition(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(data).startswith(b"\x89PNG\r\n\x1a\n")


def test_only_so_many_figures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("fitorch.history.report._MOST_PLOTS", 1)
    model = make_model(metrics_dict={"mae": "mae"})
    fit(model)
    page = read(model.history, tmp_path / "report.html")
    assert len(page.pictures) == 1
    assert "1 of 2 metrics are drawn." in page.text


def test_settings_are_those_of_the_fit(tmp_path, undrawn):
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    net[0].weight.requires_grad_(False)
    sgd = torch.optim.SGD(net[2].parameters(), 0.125, momentum=0.9)
    model = make_model(
        net,
        loss_fn=FocalLoss(from_logits=True) + 1e-3 * L2(),
        metrics_dict={"auc": "auc"},
        optimizer=sgd,
        lr_scheduler=torch.optim.lr_scheduler.StepLR(sgd, 1, 0.5),
    )
    model.fit(
        (X, (X[:, :1] > 0).float()),
        validation_split=0.25,
        epochs=2,
        batch_size=10,
        clip_grad_norm=2.5,
        gradient_accumulation_steps=2,
        monitor="val_auc",
        patience=7,
        seed=11,
        verbose=0,
        callbacks=[EarlyStopping("val_loss", patience=9)],
    )
    facts = read(model.history, tmp_path / "report.html").facts
    expected = {
        "net": "Sequential, 26 parameters, 11 of them trained",
        "loss": repr(FocalLoss(from_logits=True) + 1e-3 * L2()),
        "metrics": "auc (binary)",
        "optimizer": "SGD(lr=0.125, momentum=0.9)",  # at the beginning: the schedule changed it
        "schedule": "StepLR, with every epoch",
        "training data": "48 samples in 5 batches of 10",
        "epochs": "up to epoch 2",
        "monitor": "val_auc, the higher the better",
        "seed": "11",
        "patience": "7",
        "validation_split": "0.25",
        "gradient_accumulation_steps": "2",
        "clip_grad_norm": "2.5",
        "callbacks": "EarlyStopping",
    }
    assert {name: facts.get(name) for name in expected} == expected
    assert "max_time" not in facts


def test_the_environment_is_this_one(tmp_path, undrawn):
    model = make_model()
    fit(model)
    facts = read(model.history, tmp_path / "report.html").facts
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == metadata.version("torch")
    assert facts["accelerate"] == accelerate.__version__
    assert facts["device"] == str(model.placement)
    assert facts["processes"] == "1"
    assert facts["threads"] == str(torch.get_num_threads())


@pytest.mark.parametrize("changed", [True, False, None])
def test_the_revision_is_marked_where_files_have_changed(tmp_path, monkeypatch, undrawn, changed):
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fitorch.history.report_sections.is_changed", lambda folder: changed)
    model = make_model()
    fit(model)
    mark = ", with uncommitted changes" if changed else ""
    page = read(model.history, "report.html")
    assert page.facts["git"] == f"{commit[:12]} on trunk{mark}"
    git(tmp_path, "commit", "--allow-empty", "-m", "second")  # changes since then are not known
    assert read(model.history, "report.html").facts["git"] == f"{commit[:12]} on trunk"


def test_without_a_repository_there_is_no_revision(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    model = make_model()
    fit(model)
    assert "git" not in read(model.history, "report.html").facts


def test_all_text_is_escaped(tmp_path):
    evil = "</style><script>alert(1)</script>&amp;\"'"
    net = type(evil, (nn.Linear,), {})(3, 1)

    class Fails(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise ArithmeticError(evil)

    model = make_model(net, metrics_dict={evil: lambda p, t: (p - t).abs().mean()})
    with pytest.raises(ArithmeticError):
        fit(model, callbacks=[type(evil, (Fails,), {})()])
    page = read(model.history, tmp_path / "report.html")
    assert "script" not in page.tags
    assert page.facts["net"].startswith(evil)
    assert page.facts["callbacks"] == evil
    assert f"train_{evil}" in page.rows[0]
    assert f"ArithmeticError: {evil}" in page.text
    assert page.pictures[1]["alt"] == f"{evil} over the epochs"


def test_the_checkpoint_is_told_where_it_is_there(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    model = make_model()
    fit(model, ckpt_path="run")
    facts = read(model.history, "report.html").facts
    assert facts["checkpoint"] == "run/checkpoints/step-0000000006, after epoch 3"
    assert facts["best weights"] == "run/best.safetensors"
    fit(make_model(), epochs=3, ckpt_path="run")  # another run has taken its place
    assert "checkpoint" not in read(model.history, "report.html").facts
    model = make_model()
    fit(model, ckpt_path="other")
    Path("other").rename("moved")
    facts = read(model.history, "report.html").facts
    assert "checkpoint" not in facts
    assert "best weights" not in facts


def test_after_a_resume_what_was_before_is_told_as_such(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    fit(make_model(), epochs=2, ckpt_path="run")
    model = make_model()
    fit(model, epochs=5, ckpt_path="run", resume=True)
    page = read(model.history, "report.html")
    start = page.rows.index(["epochs", "status", "why it ended", "time"])
    assert [row[0] for row in page.rows[start + 1 :]] == ["1 to 2", "3 to 5"]
    assert [row[0] for row in page.rows[1:start]] == ["1", "2", "3", "4", "5"]
    fit(model, epochs=5, ckpt_path="run", resume=True)
    page = read(model.history, "report.html")
    assert page.facts["reason"] == "there was nothing left to train"
    assert page.facts["checkpoint"] == "run/checkpoints/step-0000000010, after epoch 5"


def test_of_a_restored_history_nothing_is_made_up(tmp_path, undrawn):
    before = make_model()
    fit(before, ckpt_path=tmp_path / "run")
    model = make_model()
    fit(model, epochs=1)  # its record is not that of the history to come
    model.restore(tmp_path / "run")
    page = read(model.history, tmp_path / "report.html")
    assert page.facts == {}
    assert "are not known" in page.text
    assert len(page.rows) == 4
    assert f"best val_loss\n{number(before.history.best['val_loss'])}" in page.text


def test_a_history_of_a_loop_of_ones_own_has_a_report(tmp_path, capsys):
    log = VLog(epochs=2, bar=False)
    log.log_epoch({"train_loss": 0.5, "val_loss": 0.75})
    log.log_epoch({"train_loss": 0.25, "val_loss": 0.5})
    page = read(log.history, tmp_path / "report.html")
    assert [row[2] for row in page.rows] == ["val_loss", "0.7500", "0.5000"]
    assert len(page.pictures) == 1
    assert page.facts == {}


def test_nothing_is_best_where_all_is_nan(tmp_path, undrawn):
    log = VLog(epochs=1, bar=False)
    log.log_epoch({"train_loss": 0.5, "val_loss": float("nan")})
    page = read(log.history, tmp_path / "report.html")
    assert "best val_loss\n-\nnever measured" in page.text
    assert not any(page.marked)


def make_history(epochs, figures):
    history = History()
    history.begin("val_loss", "min", 0, sets=["val_"])
    names = [f"train_{i}" for i in range(figures - 2)]
    for epoch in range(epochs):
        history.on_epoch_begin(epoch)
        loss = abs(epoch - 333) + 1.0
        row = {"train_loss": loss, "val_loss": loss} | dict.fromkeys(names, 0.123456789)
        history.on_epoch_end(epoch, row)
    return history


def test_a_long_history_is_thinned(tmp_path):
    history = make_history(5000, 2)
    page = read(history, tmp_path / "report.html")
    shown = [int(row[0]) for row in page.rows[1:]]
    assert len(shown) <= 200
    assert shown[0] == 1
    assert shown[-20:] == list(range(4981, 5001))
    assert [epoch for epoch, best in zip(shown, page.marked[1:], strict=True) if best] == [334]
    assert f"{len(shown)} of 5,000 epochs are shown" in page.text
    assert (tmp_path / "report.html").stat().st_size < 150_000


def test_a_wide_history_is_cut(tmp_path, undrawn):
    history = make_history(400, 300)
    page = read(history, tmp_path / "report.html")
    assert len(page.rows[0]) == 100
    assert f"100 of {len(history.columns)} columns are shown." in page.text
    assert (tmp_path / "report.html").stat().st_size < 300_000


@pytest.mark.parametrize("best", [None, 0, 57, 998])
@pytest.mark.parametrize("limit", [40, 111, 200])
@pytest.mark.parametrize("count", [1, 39, 40, 41, 60, 199, 201, 999, 100_000])
def test_the_rows_that_are_shown(count, limit, best):
    best = best if best is None or best < count else count - 1
    rows = chosen_rows(count, best, limit)
    assert rows == sorted(set(rows))
    assert len(rows) <= limit
    assert len(rows) == count or count > limit
    assert {0, count - 1, best if best is not None else 0} <= set(rows)
    assert set(range(max(0, count - 20), count)) <= set(rows)


def test_an_empty_history_has_no_report(tmp_path):
    with pytest.raises(ValueError, match="the history is empty; fit the model first"):
        History().to_html(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_folders_are_made_and_a_report_is_replaced(tmp_path, undrawn):
    model = make_model()
    fit(model, epochs=1)
    path = tmp_path / "a" / "b" / "report.html"
    assert "epochs\n1\nof 1" in read(model.history, str(path)).text
    fit(model, epochs=1)
    assert "epochs\n2\nof 2" in read(model.history, path).text
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_where_it_cant_be_written_the_error_says_so(tmp_path, undrawn):
    model = make_model()
    fit(model, epochs=1)
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(OSError, match=f"cannot write the report to {path}: ") as caught:
            model.history.to_html(path)
        assert caught.value.errno is not None
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_record_costs_nothing_per_step():
    for name in ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_end"):
        assert getattr(History, name) is getattr(Callback, name)
