"""The display of fit in a loop of one's own."""

import io
from contextlib import redirect_stdout

import pytest
from rich.console import Console

from fitorch import VLog
from fitorch.callbacks.display.progress import Progress


def run(log, losses, batches=3, validated=2):
    log.log_start()
    for loss in losses:
        for _ in range(batches):
            log.log_step({"train_loss": loss})
        for _ in range(validated):
            log.log_step({"val_loss": loss}, training=False)
        log.log_epoch({"train_loss": loss, "val_loss": 2 * loss})
    return log.log_end()


def test_keeps_a_row_per_epoch(capsys):
    frame = run(VLog(epochs=3), [3.0, 1.0, 2.0])
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["train_loss"].tolist() == [3.0, 1.0, 2.0]
    assert frame["val_loss"].tolist() == [6.0, 2.0, 4.0]


def test_prints_a_line_per_epoch_and_marks_the_best(capsys):
    run(VLog(epochs=3), [3.0, 1.0, 2.0])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert [" *" in line for line in lines] == [True, True, False]


def test_the_best_epoch_is_that_of_the_monitored_figure(capsys):
    log = VLog(monitor_metric="train_loss", monitor_mode="max")
    run(log, [1.0, 3.0, 2.0])
    assert log.history.best["epoch"] == 2


def test_shows_batches_and_validation_on_a_terminal(monkeypatch):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(Progress, "pause", 0.0)
    monkeypatch.setattr("fitorch.callbacks.display.progress._SHARE", 1e9)
    log = VLog(epochs=1, steps=3)
    log._display._console = console
    run(log, [1.5])
    text = file.getvalue()
    for part in ("epoch 1/1", "2/3", "train_loss", "validating 2"):
        assert part in text


def test_epochs_without_batches_are_epochs_too(capsys):
    frame = run(VLog(), [2.0, 1.0], batches=0, validated=0)
    assert len(frame) == 2
    assert "epoch 1  train_loss 2.000" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["history.png", "pictures/history.svg"])
def test_draws_where_it_is_told_to_and_nowhere_else(tmp_path, monkeypatch, name, capsys):
    monkeypatch.chdir(tmp_path)
    run(VLog(), [2.0, 1.0])
    assert not list(tmp_path.iterdir())
    run(VLog(save_path=name), [2.0, 1.0])
    assert (tmp_path / name).stat().st_size > 1000


def test_a_picture_that_cant_be_written_warns_and_keeps_the_history(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot save the plot .*x.png") as told:
        frame = run(VLog(save_path=tmp_path / "file" / "x.png"), [2.0, 1.0])
    assert len(told) == 1
    assert len(frame) == 2


def test_no_bar_gives_plain_lines():
    shown = io.StringIO()
    with redirect_stdout(shown):
        run(VLog(epochs=2, bar=False), [2.0, 1.0])
    assert shown.getvalue().count("\n") == 2


def test_two_runs_follow_each_other(capsys):
    log = VLog(epochs=4)
    run(log, [4.0, 3.0])
    frame = run(log, [2.0, 1.0])
    assert frame["epoch"].tolist() == [1, 2, 3, 4]


def test_nothing_logged_gives_an_empty_history(tmp_path):
    log = VLog(save_path=tmp_path / "x.png")
    log.log_start()
    assert len(log.log_end()) == 0
    assert not list(tmp_path.iterdir())


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="mode is 'best'; expected 'min', 'max'"):
        VLog(monitor_mode="best")
