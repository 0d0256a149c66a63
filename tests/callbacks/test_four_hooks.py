"""torchkeras' four hooks on any object, and the logs of the hooks of tests and predictions."""

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, CallbackList, LambdaCallback

X = torch.linspace(-1, 1, 20)[:, None]
FOUR = ["fit_start", "train_epoch_end", "validation_epoch_end", "fit_end"]


class Calls:
    def __init__(self):
        self.calls = []

    def on_fit_start(self, model):
        assert isinstance(model, KerasModel)
        self.calls.append("fit_start")

    def on_train_epoch_end(self, model):
        self.calls.append("train_epoch_end")

    def on_validation_epoch_end(self, model):
        self.calls.append("validation_epoch_end")

    def on_fit_end(self, model):
        self.calls.append("fit_end")


class OfOurs(Calls, Callback):
    """A subclass of `Callback`."""


class Beside(Calls):
    """An object with one of Keras' hooks, but without `set_model`."""

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append("epoch_end")


def model():
    return KerasModel(nn.Linear(1, 1), "mse", {"mae": "mae"})


def fit(*callbacks, **options):
    return model().fit((X, X), (X, X), epochs=1, verbose=0, callbacks=[*callbacks], **options)


@pytest.mark.parametrize("kind", [Calls, OfOurs, Beside])
@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: CallbackList([c])], ids=["alone", "list"])
def test_run_on_any_callback(kind, wrap):
    callback = kind()
    fit(wrap(callback))
    assert [call for call in callback.calls if call != "epoch_end"] == FOUR
    assert callback.calls.count("epoch_end") == (kind is Beside)


def test_run_on_a_callback_of_keras(theirs):
    class OfKeras(Calls, theirs.Callback):
        def __init__(self):
            theirs.Callback.__init__(self)
            Calls.__init__(self)

    callback = OfKeras()
    fit(callback)
    assert callback.calls == FOUR


@pytest.mark.parametrize("kind", [Calls, OfOurs, Beside])
def test_an_evaluation_runs_none_of_them(kind):
    callback = kind()
    model().evaluate((X, X), callbacks=[callback], verbose=0)
    assert callback.calls == []


@pytest.mark.parametrize("hook", ["on_test_batch_end", "on_test_end"])
@pytest.mark.parametrize("verb", ["evaluate", "fit", "sets"])
def test_logs_of_tests_have_the_names_of_keras(hook, verb):
    seen = []

    def look(*args):
        logs, prefix = args[-1], "val_a_" if verb == "sets" else "val_"
        assert "loss" in logs
        assert logs["loss"] == logs[f"{prefix}loss"] == logs.get("loss")
        assert logs["mae"] == logs[f"{prefix}mae"]
        assert "nothing" not in logs
        seen.append(logs["loss"])

    callback = LambdaCallback(**{hook: look})
    if verb == "fit":
        expected = fit(callback)["val_loss"][0]
    elif verb == "sets":
        expected = model_values({"a": (X, X)}, callback)["val_a_loss"]
    else:
        expected = model_values((X, X), callback)["val_loss"]
    assert seen[-1] == expected


def model_values(data, callback):
    return model().evaluate(data, callbacks=[callback], verbose=0)


def test_logs_of_predictions_have_the_outputs():
    seen = []
    callback = LambdaCallback(on_predict_batch_end=lambda batch, logs: seen.append(logs["outputs"]))
    result = model().predict(X, batch_size=8, callbacks=[callback], verbose=0)
    assert [len(part) for part in seen] == [8, 8, 4]
    assert torch.equal(torch.cat(seen), result)
