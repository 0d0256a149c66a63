"""Keras' own callbacks in our fit, unchanged, and beside ours."""

import warnings

import pandas as pd
import pytest
import torch
from torch import nn

import fitorch.callbacks as ours
from fitorch import KerasModel, NonFiniteError

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model_of():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, torch.optim.SGD)


def fit(*callbacks, model=None, **options):
    model = model or model_of()
    chosen = {"epochs": 3, "batch_size": 5, "verbose": 0} | options
    model.fit((X, Y), (X, Y), callbacks=list(callbacks), **chosen)
    return model


class Scripted(ours.Callback):
    """Puts the figures of a list into the logs."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


def test_its_csv_holds_the_history(theirs, tmp_path):
    model = fit(theirs.CSVLogger(str(tmp_path / "theirs.csv")), ours.CSVLogger(tmp_path / "o.csv"))
    found = pd.read_csv(tmp_path / "theirs.csv")
    assert found["epoch"].tolist() == [0, 1, 2]
    for name in found.columns.drop("epoch"):
        assert found[name].tolist() == pytest.approx(model.history.frame[name].tolist())
    pd.testing.assert_frame_equal(found, pd.read_csv(tmp_path / "o.csv"))


def test_its_csv_goes_on_when_appending(theirs, tmp_path):
    path, model = tmp_path / "log.csv", model_of()
    fit(theirs.CSVLogger(str(path), separator=";"), model=model)
    fit(theirs.CSVLogger(str(path), separator=";", append=True), model=model, epochs=1)
    assert pd.read_csv(path, sep=";")["epoch"].tolist() == [0, 1, 2, 3]


def test_its_functions_are_called_at_the_same_events_as_ours(theirs):
    events = ("on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end")
    events = (*events, "on_epoch_end", "on_train_end")
    calls = {"theirs": [], "ours": []}
    callbacks = []
    for owner, kind in (("theirs", theirs.LambdaCallback), ("ours", ours.LambdaCallback)):
        notes = calls[owner]
        hooks = {
            name: lambda *args, name=name, notes=notes: notes.append((name, *args[:-1]))
            for name in events
        }
        callbacks.append(kind(**hooks))
    fit(*callbacks, epochs=2)
    assert calls["theirs"] == calls["ours"]
    assert calls["theirs"][:3] == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        ("on_train_batch_begin", 0),
    ]


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([10, 9, 8, 9, 8.9, 8.9, 8.9, 8], {"patience": 2}),
        ([10, 9, 8, 9, 8.9, 8.9, 8.9, 8], {"patience": 1}),
        ([10, 9.95, 9.9, 9.85, 9.8, 9.75, 9.7, 9], {"patience": 2, "min_delta": 0.2}),
        ([1, 2, 3, 3, 3, 3, 3, 4], {"patience": 3, "mode": "max"}),
        ([10, 11, 12, 13, 9, 9.5, 9.6, 9.7], {"patience": 1, "start_from_epoch": 3}),
        ([9, 8, 7, 6, 6, 6, 6, 6], {"patience": 2, "baseline": 5}),
        ([10, 9, 8, 7, 6, 5, 4, 3], {"patience": 1}),
    ],
)
def test_it_stops_early_in_the_epoch_in_which_ours_does(theirs, values, options):
    lengths = [
        len(fit(Scripted(values), kind(monitor="val_loss", **options), epochs=8).history)
        for kind in (theirs.EarlyStopping, ours.EarlyStopping)
    ]
    if "baseline" in options:  # ours also stops a run that gets better, but stays behind it
        assert lengths == [5, 2]
    else:
        assert lengths[0] == lengths[1]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_epoch_in_which_it_stops_is_the_one_that_keras_tests(theirs, patience):
    stopping = theirs.EarlyStopping(monitor="val_loss", patience=patience)
    fit(Scripted([10, 9, 8, 9, 8.9, 8.9, 8.9, 8.9]), stopping, epochs=8)
    assert stopping.stopped_epoch == max(patience, 1) + 2


def test_it_begins_each_fit_afresh(theirs):
    stopping, model = theirs.EarlyStopping(monitor="val_loss", patience=2), model_of()
    fit(Scripted([1.0, *[2.0] * 20]), stopping, model=model, epochs=9)
    fit(Scripted([3.0] * 20), stopping, model=model, epochs=9)
    assert len(model.history) == 6


def test_the_direction_of_a_metric_must_be_told_it(theirs):
    with pytest.raises(ValueError, match=r"Pass `mode='max'`"):
        fit(theirs.EarlyStopping(monitor="val_mae"))
    assert len(fit(theirs.EarlyStopping(monitor="val_mae", mode="min")).history) == 3


def test_a_figure_under_kerass_name_is_found(theirs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(theirs.EarlyStopping(monitor="loss"), theirs.EarlyStopping(monitor="mae", mode="min"))


def test_a_figure_that_is_not_measured_is_warned_of_by_keras(theirs):
    with pytest.warns(UserWarning, match="metric `val_acc` which is not available"):
        assert len(fit(theirs.EarlyStopping(monitor="val_acc", mode="max")).history) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("EarlyStopping", {"restore_best_weights": True}, "EarlyStopping.restore_best_weights"),
        ("ModelCheckpoint", {"filepath": "w.weights.h5", "save_weights_only": True}, "ModelCheck"),
        ("ReduceLROnPlateau", {}, "fitorch.callbacks.ReduceLROnPlateau"),
        ("LearningRateScheduler", {"schedule": lambda epoch: 0.1}, "callbacks.LearningRateSch"),
        ("BackupAndRestore", {"backup_dir": "backup"}, "fitorch.callbacks.BackupAndRestore"),
        ("SwapEMAWeights", {}, "fitorch.callbacks.EMA"),
        ("History", {}, "would replace model.history"),
        ("TensorBoard", {"log_dir": "logs"}, "fitorch.callbacks.TensorBoardCallback"),
    ],
)
def test_what_needs_a_keras_model_is_refused_before_training(theirs, name, arguments, message):
    kind = getattr(theirs, name)
    own = type("Own", (kind,), {})
    model = model_of()
    for made in (kind, own):
        with pytest.raises(TypeError, match=f"keras.callbacks.{name} .*{message}"):
            fit(made(**arguments), model=model)
    assert len(model.history) == 0


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "LearningRateScheduler", "ModelCheckpoint"])
def test_ours_of_the_same_name_is_no_foreigner(name, tmp_path):
    arguments = {
        "LearningRateScheduler": {"schedule": lambda epoch: 0.1},
        "ModelCheckpoint": {"filepath": tmp_path / "w.pt"},
    }
    fit(getattr(ours, name)(**arguments.get(name, {})))


def test_a_loss_that_is_not_finite_is_our_error_also_where_keras_would_stop(theirs):
    ended = []
    ending = ours.LambdaCallback(on_train_end=lambda logs: ended.append(True))
    x = X.clone()
    x[7] = float("nan")
    model = model_of()
    with pytest.raises(NonFiniteError):
        model.fit((x, Y), epochs=2, verbose=0, callbacks=[theirs.TerminateOnNaN(), ending])
    assert ended


def test_a_finite_loss_does_not_disturb_it(theirs, capsys):
    assert len(fit(theirs.TerminateOnNaN()).history) == 3
    assert capsys.readouterr().out == ""


def test_its_list_of_callbacks_is_one(theirs, tmp_path):
    stopping = theirs.EarlyStopping(monitor="val_loss", patience=1)
    batches = []
    counting = theirs.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(logs))
    several = theirs.CallbackList([stopping, counting, theirs.CSVLogger(str(tmp_path / "l.csv"))])
    model = fit(Scripted([1.0, 2.0, 3.0, 4.0]), several, epochs=4)
    assert stopping.model is model
    assert len(model.history) == 2
    assert len(batches) == 8
    assert set(batches[0]) == {"train_loss", "train_mae"}
    assert pd.read_csv(tmp_path / "l.csv")["val_loss"].tolist() == [1.0, 2.0]


def test_what_a_list_holds_is_refused_too(theirs):
    several = theirs.CallbackList([theirs.ReduceLROnPlateau()])
    with pytest.raises(TypeError, match=r"fitorch\.callbacks\.ReduceLROnPlateau"):
        fit(several)


def test_a_callback_of_a_users_own_stops_the_fit_by_its_model(theirs):
    class Stops(theirs.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if logs["loss"] > 0 and batch == 1:
                self.model.stop_training = True

    model = fit(Stops())
    assert len(model.history) == 1
    assert model.stop_training
