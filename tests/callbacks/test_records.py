"""CSV and JSON lines: what is in the files, whatever happens to the fit."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, CSVLogger, JSONLinesLogger

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model_of():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "sgd")


class Adds(Callback):
    """Adds figures to the logs from the third epoch on."""

    def __init__(self, **figures):
        self.figures = figures

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 2:
            logs.update(self.figures)


def test_a_csv_holds_the_history(tmp_path):
    path = tmp_path / "deep" / "log.csv"
    model = model_of()
    frame = model.fit((X, Y), (X, Y), epochs=3, verbose=0, callbacks=[CSVLogger(path)])
    read = pd.read_csv(path, dtype=str)  # pandas 2 is not exact by itself
    assert list(read) == ["epoch", "lr", "train_loss", "train_mae", "val_loss", "val_mae"]
    assert read["epoch"].tolist() == ["0", "1", "2"]
    for column in ("lr", "train_loss", "val_mae"):
        assert read[column].map(float).tolist() == frame[column].tolist()


def test_what_was_not_measured_is_na_and_new_figures_get_columns(tmp_path):
    path = tmp_path / "log.csv"
    callbacks = [Adds(extra=7.5, several=np.array([1, 2])), CSVLogger(path)]
    model_of().fit((X, Y), (X, Y), epochs=4, validation_freq=2, verbose=0, callbacks=callbacks)
    lines = path.read_text().splitlines()
    assert lines[0] == "epoch,extra,lr,several,train_loss,train_mae,val_loss,val_mae"
    assert lines[1].startswith("0,NA,")
    assert lines[1].endswith(",NA,NA")
    assert not lines[2].endswith("NA")
    assert '"[1, 2]"' in lines[3]
    read = pd.read_csv(path)
    assert read["extra"].tolist()[2:] == [7.5, 7.5]
    assert read["val_loss"].isna().tolist() == [True, False, True, False]


def test_another_separator(tmp_path):
    model_of().fit((X, Y), epochs=1, verbose=0, callbacks=[CSVLogger(tmp_path / "l.tsv", "\t")])
    assert (tmp_path / "l.tsv").read_text().startswith("epoch\tlr\t")


@pytest.mark.parametrize("kind", [CSVLogger, JSONLinesLogger])
def test_a_second_fit_goes_on_and_a_new_callback_begins_anew(tmp_path, kind):
    path = tmp_path / "log"
    model, logger = model_of(), kind(path)
    for _ in range(2):
        model.fit((X, Y), epochs=2, verbose=0, callbacks=[logger])
    assert epochs_in(path) == [0, 1, 2, 3]
    model.fit((X, Y), epochs=1, verbose=0, callbacks=[kind(path)])
    assert epochs_in(path) == [4]


@pytest.mark.parametrize("kind", [CSVLogger, JSONLinesLogger])
def test_appending_drops_the_epochs_that_are_trained_anew(tmp_path, kind):
    path = tmp_path / "log"
    model_of().fit((X, Y), epochs=5, verbose=0, callbacks=[kind(path)])
    model = model_of()
    model.fit((X, Y), epochs=3, verbose=0)
    model.fit((X, Y), epochs=1, verbose=0, callbacks=[kind(path, append=True)])
    assert epochs_in(path) == [0, 1, 2, 3]


def epochs_in(path):
    text = path.read_text()
    if text.startswith("{"):
        return [json.loads(line)["epoch"] for line in text.splitlines()]
    return pd.read_csv(path)["epoch"].tolist()


def test_json_lines_hold_the_history_and_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "log.jsonl"
    callbacks = [Adds(bad=float("nan"), several=torch.tensor([1.0, 2.0])), JSONLinesLogger(path)]
    frame = model_of().fit((X, Y), epochs=3, verbose=0, callbacks=callbacks)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["train_loss"] for row in rows] == frame["train_loss"].tolist()
    assert rows[2]["bad"] is None
    assert rows[2]["several"] == [1.0, 2.0]
    assert "bad" not in rows[0]


class Killed(Callback):
    """Ends the fit as a crash would."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            message = "killed"
            raise RuntimeError(message)


@pytest.mark.parametrize("kind", [CSVLogger, JSONLinesLogger])
def test_each_epoch_is_in_the_file_as_soon_as_it_is_over(tmp_path, kind):
    path = tmp_path / "log"
    with pytest.raises(RuntimeError, match="killed"):
        model_of().fit((X, Y), epochs=9, verbose=0, callbacks=[kind(path), Killed()])
    assert epochs_in(path) == [0, 1, 2]


@pytest.mark.parametrize("kind", [CSVLogger, JSONLinesLogger])
def test_what_cannot_be_written_is_told_before_training(tmp_path, kind):
    (tmp_path / "folder").mkdir()
    model = model_of()
    with pytest.raises(OSError, match="folder"):
        model.fit((X, Y), epochs=1, verbose=0, callbacks=[kind(tmp_path / "folder")])
    assert len(model.history) == 0


@pytest.mark.parametrize("kind", [CSVLogger, JSONLinesLogger])
def test_appending_to_something_else_is_refused_and_leaves_it(tmp_path, kind):
    path = tmp_path / "notes.txt"
    path.write_text("name,age\nBob,3\n")
    with pytest.raises(ValueError, match=r"notes.txt was not written by .*append=False"):
        model_of().fit((X, Y), epochs=1, verbose=0, callbacks=[kind(path, append=True)])
    assert path.read_text() == "name,age\nBob,3\n"


def test_a_separator_of_several_characters():
    with pytest.raises(ValueError, match="separator is ', '; expected one character"):
        CSVLogger("log.csv", separator=", ")
