"""What Keras says of its callbacks, sentence by sentence: ours beside the real ones."""

import inspect
import json
import random
import threading
from collections import namedtuple
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn, optim

import fitorch.callbacks as ours
from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks.hooks import HOOKS

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
Watched = namedtuple("Watched", "epochs weight rates")


def model_of(rate=0.1):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    return KerasModel(net, "mse", {"mae": "mae"}, optim.SGD(net.parameters(), rate))


def fit(*callbacks, model=None, **options):
    model = model or model_of()
    chosen = {"epochs": 3, "batch_size": 5, "verbose": 0} | options
    model.fit((X, Y), (X, Y), callbacks=list(callbacks), **chosen)
    return model


class Scripted(ours.Callback):
    """Puts the figures of a list into the logs, and keeps each epoch's weights."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name, self.weights = values, name, []

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]
        self.weights.append(self.model.net.weight.detach().clone())


class KerasNet:
    """As much of a Keras model as its callbacks need; the weight is the number of the epoch."""

    def __init__(self):
        self.weight, self.stop_training = -1, False
        self.optimizer = SimpleNamespace(learning_rate=0.1)

    def get_weights(self):
        return self.weight

    def set_weights(self, weight):
        self.weight = weight


def watch_theirs(callback, values):
    """Show a callback of Keras' the figures of one epoch after another."""
    net, rates = KerasNet(), []
    callback.set_model(net)
    callback.on_train_begin()
    for net.weight, value in enumerate(values):
        callback.on_epoch_end(net.weight, {"val_loss": value})
        rates.append(net.optimizer.learning_rate)
        if net.stop_training:
            break
    callback.on_train_end()
    return Watched(len(rates), net.weight, rates)


def watch_ours(callback, values):
    """Show ours the same; the net's weight is the number of the epoch, too."""
    net = nn.Linear(1, 1, bias=False)
    optimizer, rates = optim.SGD(net.parameters(), 0.1), []
    model = SimpleNamespace(net=net, objective=SimpleNamespace(module=nn.Module()), optimizer=None)
    model.optimizer, model.lr_scheduler, model.stop_training = optimizer, None, False
    callback.set_model(model)
    callback.on_train_begin({})
    for epoch, value in enumerate(values):
        nn.init.constant_(net.weight, epoch)
        callback.on_epoch_end(epoch, {"val_loss": value})
        rates.append(optimizer.param_groups[0]["lr"])
        if model.stop_training:
            break
    callback.on_train_end({})
    return Watched(len(rates), net.weight.item(), rates)


def walks(count, epochs):
    """Give random figures, in steps that often repeat a value."""
    draw = random.Random(0)
    for _ in range(count):
        value, values = 5.0, []
        for _ in range(epochs):
            value += draw.choice([-0.5, -0.25, 0.0, 0.0, 0.25, 0.5])
            values.append(value)
        yield draw, values


@pytest.mark.parametrize(
    "name",
    [
        "CSVLogger",
        "EarlyStopping",
        "LambdaCallback",
        "LearningRateScheduler",
        "ModelCheckpoint",
        "ReduceLROnPlateau",
        "TerminateOnNaN",
    ],
)
def test_arguments_have_kerass_names_order_and_defaults(theirs, name):
    def arguments(kind):
        given = inspect.signature(kind).parameters.values()
        return [
            (each.name, each.default) for each in given if each.kind == each.POSITIONAL_OR_KEYWORD
        ]

    assert arguments(getattr(ours, name)) == arguments(getattr(theirs, name))


def test_there_are_the_hooks_of_keras(theirs):
    names = {name for name in dir(theirs.Callback) if name.startswith("on_")}
    assert names - {"on_batch_begin", "on_batch_end"} == set(HOOKS)


def test_training_stops_early_where_kerass_does_and_leaves_the_same_weights(theirs):
    for draw, values in walks(300, epochs=15):
        options = {
            "patience": draw.randrange(5),
            "min_delta": draw.choice([0, 0.25, 0.3, -0.3]),
            "mode": draw.choice(["min", "max"]),
            "start_from_epoch": draw.choice([0, 0, 4]),
            "restore_best_weights": draw.choice([True, False]),
        }
        expected = watch_theirs(theirs.EarlyStopping("val_loss", **options), values)
        assert watch_ours(ours.EarlyStopping(**options), values)[:2] == expected[:2], options


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
@pytest.mark.parametrize("min_delta", [0.0, 0.5])
def test_a_baseline_must_be_beaten_by_min_delta_as_in_keras(theirs, mode, sign, min_delta):
    options = {"patience": 2, "baseline": sign * 5.0, "min_delta": min_delta, "mode": mode}
    values = [sign * value for value in (4.8, 4.7, 4.7, 4.7, 4.7)]
    expected = watch_theirs(theirs.EarlyStopping("val_loss", **options), values).epochs
    assert watch_ours(ours.EarlyStopping(**options), values).epochs == expected


def test_unlike_in_keras_a_first_epoch_behind_the_baseline_can_be_the_last(theirs):
    options = {"patience": 0, "baseline": 1.0, "mode": "min"}
    assert watch_theirs(theirs.EarlyStopping("val_loss", **options), [3, 3, 3]).epochs == 2
    assert watch_ours(ours.EarlyStopping(**options), [3, 3, 3]).epochs == 1


def test_the_last_epoch_counts():
    stopping = ours.EarlyStopping(patience=1, restore_best_weights=True)
    assert watch_ours(stopping, [5, 4, 3])[:2] == (3, 2)
    scripted = Scripted([3.0, 2.0, 1.0])
    model = fit(scripted, ours.BestWeights())
    assert torch.equal(model.net.weight, scripted.weights[2])


def test_the_best_value_of_early_stopping_is_forgotten_in_the_next_fit_and_a_checkpoints_is_not(
    tmp_path,
):
    stopping = ours.EarlyStopping(patience=9)
    checkpoint = ours.ModelCheckpoint(tmp_path / "w.pt", save_best_only=True)
    model = model_of()
    for value in (1.0, 2.0):
        fit(Scripted([value] * 9), stopping, checkpoint, model=model, epochs=1)
    assert stopping.watched.best == 2.0
    assert checkpoint.watched.best == 1.0


def test_a_plateau_lowers_the_rate_in_the_epochs_in_which_kerass_does(theirs):
    for draw, values in walks(300, epochs=20):
        options = {
            "factor": draw.choice([0.1, 0.5]),
            "patience": draw.randrange(4),
            "cooldown": draw.randrange(4),
            "min_lr": draw.choice([0.0, 0.03]),
            "min_delta": draw.choice([1e-4, 0.3]),
            "mode": draw.choice(["min", "max"]),
        }
        expected = watch_theirs(theirs.ReduceLROnPlateau("val_loss", **options), values)
        found = watch_ours(ours.ReduceLROnPlateau(**options), values)
        assert found.rates == pytest.approx(expected.rates), options


def test_a_plateau_of_an_earlier_fit_is_forgotten():
    callback, values = ours.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=3), [3, 3, 3, 3, 3]
    first = watch_ours(callback, values)
    assert callback.cooldown_counter > 0
    assert watch_ours(callback, values) == first


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_factor_that_lowers_nothing_is_refused_as_by_keras(theirs, factor):
    for kind in (theirs.ReduceLROnPlateau, ours.ReduceLROnPlateau):
        with pytest.raises(ValueError, match="factor"):
            kind(factor=factor)


@pytest.mark.parametrize("schedule", [lambda e, lr: 0.5 * lr if e else lr, lambda e: 0.3 / (e + 1)])
def test_a_schedule_sets_the_rate_that_it_sets_in_keras(theirs, schedule):
    callback, net = theirs.LearningRateScheduler(schedule), KerasNet()
    callback.set_model(net)
    expected = []
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        expected.append(net.optimizer.learning_rate)
    frame = fit(ours.LearningRateScheduler(schedule), epochs=4).history.frame
    assert frame["lr"].tolist() == pytest.approx(expected)


def test_a_schedule_goes_on_over_two_fits_as_over_one():
    one = fit(ours.LearningRateScheduler(lambda epoch, lr: 0.9 * lr), epochs=4)
    two, callback = model_of(), ours.LearningRateScheduler(lambda epoch, lr: 0.9 * lr)
    for _ in range(2):
        fit(callback, model=two, epochs=2)
    assert two.history.history["lr"] == one.history.history["lr"]


def test_a_schedule_gets_the_epochs_from_initial_epoch_on():
    asked = []
    fit(
        ours.LearningRateScheduler(lambda epoch: asked.append(epoch) or 0.1),
        initial_epoch=5,
        epochs=7,
    )
    assert asked == [5, 6]


class Adds(ours.Callback):
    """Adds figures of several kinds to the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs.update(several=np.array([0.5, 2.0]), one=[epoch], zero=np.array(1.5))
        logs.update(word='a "word"', nan=float("nan"))


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_csv_is_kerass_to_the_byte(theirs, tmp_path, separator):
    loggers = [
        kind(str(tmp_path / name), separator)
        for kind, name in ((theirs.CSVLogger, "theirs"), (ours.CSVLogger, "ours"))
    ]
    fit(Adds(), *loggers)
    written = (tmp_path / "theirs").read_bytes()
    assert written.count(b"\n") == 4
    assert (tmp_path / "ours").read_bytes() == written


def test_what_is_appended_to_kerass_csv_is_what_keras_appends(theirs, tmp_path):
    model = model_of()
    fit(*(theirs.CSVLogger(str(tmp_path / name)) for name in ("theirs", "ours")), model=model)
    theirs_logger = theirs.CSVLogger(str(tmp_path / "theirs"), append=True)
    fit(theirs_logger, ours.CSVLogger(tmp_path / "ours", append=True), model=model)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_unlike_in_keras_figures_that_appear_later_are_kept_when_appending_too(tmp_path):
    path, model = tmp_path / "log.csv", model_of()
    model.fit((X, Y), epochs=1, verbose=0, callbacks=[ours.CSVLogger(path)])
    fit(ours.CSVLogger(path, append=True), model=model, epochs=1)
    read, figures = pd.read_csv(path), model.history.history
    assert list(read) == ["epoch", *sorted(name for name in figures if name != "seconds")]
    for name in read.columns.drop("epoch"):
        assert read[name].tolist() == pytest.approx(figures[name], nan_ok=True)


def test_unlike_in_keras_all_are_told_of_the_end_where_terminating_raises():
    ended, x = [], X.clone()
    x[7] = float("nan")
    callbacks = [
        ours.TerminateOnNaN(raise_error=True),
        ours.LambdaCallback(on_train_end=lambda logs: ended.append(True)),
    ]
    with pytest.raises(NonFiniteError):
        model_of().fit((x, Y), epochs=2, verbose=0, callbacks=callbacks)
    assert ended == [True]


def test_functions_stand_in_kerass_order_and_under_its_short_names(theirs):
    def calls_of(kind):
        calls = []
        names = ("epoch begin", "epoch end", "begin", "end", "batch begin", "batch end")
        functions = [lambda *args, name=name: calls.append((name, *args[:-1])) for name in names]
        fit(kind(*functions), kind(on_batch_end=lambda batch, logs: calls.append(batch)), epochs=1)
        return calls

    assert calls_of(ours.LambdaCallback) == calls_of(theirs.LambdaCallback)


def test_any_hook_can_be_a_function():
    calls = []
    hooks = {name: lambda *args, name=name: calls.append(name) for name in HOOKS}
    callback = ours.LambdaCallback(**hooks)
    model = fit(callback)
    model.predict(X, callbacks=[callback], verbose=0)
    assert set(calls) == set(HOOKS)


@contextmanager
def server():
    """Keep what is posted to a server of our own."""
    posted = []

    class Keeps(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Keeps) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}", posted
        finally:
            serving.shutdown()
            thread.join()


def test_kerass_remote_monitor_posts_each_epoch(theirs):
    pytest.importorskip("requests")
    with server() as (root, posted):
        model = fit(theirs.RemoteMonitor(root=root, send_as_json=True))
    assert [path for path, _ in posted] == ["/publish/epoch/end/"] * 3
    figures = model.history.history
    for epoch, (_, body) in enumerate(posted):
        assert body["epoch"] == epoch
        assert body["val_loss"] == pytest.approx(figures["val_loss"][epoch])


def test_the_history_has_kerass_attributes(theirs):
    history, seen = theirs.History(), []
    history.set_model(SimpleNamespace())
    history.on_train_begin()
    model = fit(ours.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))))
    for epoch, logs in enumerate(seen):
        history.on_epoch_end(epoch, logs)
    found = model.history.history
    assert {name: found[name] for name in found if name != "seconds"} == history.history
    assert list(found) == [*history.history, "seconds"]
    assert model.history.epoch == history.epoch == [0, 1, 2]
    assert all(type(value) is float for values in found.values() for value in values)


def test_the_historys_figures_are_found_under_kerass_names():
    found = fit().history.history
    assert found["loss"] == found["train_loss"]
    assert found["mae"] == found.get("mae") == found["train_mae"]
    assert "loss" in found
    assert found.get("auc") is None
    with pytest.raises(KeyError, match="auc"):
        found["auc"]


def test_the_historys_lists_have_an_entry_for_each_epoch_of_all_fits():
    model = model_of()
    for _ in range(2):
        fit(model=model, validation_freq=2, epochs=2)
    found = model.history.history
    assert {len(values) for values in found.values()} == {4}
    assert np.isnan(found["val_loss"]).tolist() == [True, False, True, False]
    assert model.history.epoch == [0, 1, 2, 3]


def test_the_history_knows_what_the_fit_was_about_to_do():
    look = ours.Callback()
    model = model_of()
    assert model.history.params == {}
    fit(look, model=model)
    assert model.history.params == look.params
    assert model.history.params["epochs"] == 3


def test_before_the_first_epoch_the_historys_lists_are_empty():
    history = model_of().history
    assert (history.history, history.epoch) == ({}, [])


def test_the_historys_lists_are_copies():
    history = fit().history
    history.history["train_loss"].clear()
    assert len(history.history["train_loss"]) == len(history) == 3


def test_a_checkpoint_makes_its_folder_and_counts_epochs_from_1_over_all_fits(tmp_path):
    model = model_of()
    for _ in range(2):
        callback = ours.ModelCheckpoint(tmp_path / "a" / "b" / "{epoch}-{mae:.0f}.pt")
        fit(callback, model=model, epochs=2)
    names = sorted(path.name.partition("-")[0] for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["1", "2", "3", "4"]


def test_a_checkpoint_that_can_not_be_written_ends_the_fit(monkeypatch, tmp_path):
    model = model_of()

    def full(*args, **kwargs):
        message = "no space left"
        raise OSError(message)

    monkeypatch.setattr(model, "save_ckpt", full)
    callback = ours.ModelCheckpoint(tmp_path / "w.pt")
    with pytest.raises(OSError, match="no space left"):
        fit(callback, model=model)
    assert callback.saved == []


def test_checkpoints_of_epochs_survive_a_file_that_is_gone_and_a_restart(tmp_path):
    folder, model = tmp_path / "a" / "b", model_of()
    first, second = (ours.EpochCheckpoint(folder, max_ckpt=2) for _ in range(2))
    fit(first, model=model, epochs=2)
    (folder / "epoch_0001.safetensors").unlink()
    second.load_state_dict(first.state_dict())
    fit(second, model=model, epochs=2)
    assert sorted(p.stem for p in folder.iterdir()) == ["epoch_0003", "epoch_0004"]


def test_without_validation_the_training_loss_decides():
    model = model_of(rate=1e-30)
    model.fit((X, Y), epochs=9, patience=2, verbose=0, shuffle=False)
    assert len(model.history) == 3
    assert model.history.monitor == "train_loss"


def test_a_fit_after_one_that_was_cut_short_runs_all_its_epochs():
    model = model_of()
    fit(Scripted([1.0, 2.0, 3.0]), ours.EarlyStopping(patience=1), model=model, epochs=9)
    fit(model=model, epochs=3)
    assert model.history.epoch == [0, 1, 2, 3, 4]
