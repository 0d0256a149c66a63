"""Keras' protocol beyond single callbacks: lists, functions, four hooks, errors, stopping."""

import re

import pytest
import torch
from torch import nn

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import (
    Callback,
    CallbackList,
    EarlyStopping,
    LambdaCallback,
    StopAt,
    TerminateOnNaN,
)
from fitorch.callbacks.hooks import HOOKS

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model_of(metrics=None):
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", metrics or {}, "sgd")


def fit(*callbacks, model=None, **options):
    model = model or model_of()
    chosen = {"epochs": 2, "batch_size": 10, "verbose": 0} | options
    model.fit((X, Y), (X, Y), callbacks=list(callbacks), **chosen)
    return model


class Noting(Callback):
    """Notes which hooks were called, in their order."""

    def __init__(self):
        self.calls = []


for hook in HOOKS:
    setattr(Noting, hook, lambda self, *args, name=hook: self.calls.append(name))


def test_the_docstring_of_callback_shows_the_order_in_which_hooks_are_called():
    shown = re.findall(r"^\s+(on_\w+)\(", Callback.__doc__, flags=re.MULTILINE)
    noting = Noting()
    fit(noting, epochs=1, batch_size=20)  # one batch of each kind
    assert noting.calls == shown


def test_functions_are_hooks():
    seen = []
    fit(
        LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"])),
            on_train_end=lambda logs: seen.append("end"),
        )
    )
    assert [type(item) for item in seen] == [tuple, tuple, str]


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"on_epoch_ended": print}, r"no hook 'on_epoch_ended' \(did you mean on_epoch_end\?\)"),
        ({"on_epoch_end": "print"}, "on_epoch_end is 'print', a str; pass a function"),
    ],
)
def test_functions_that_are_no_hooks(hooks, message):
    with pytest.raises(TypeError, match=message):
        LambdaCallback(**hooks)


def test_a_list_serves_a_loop_of_ones_own():
    noting, other = Noting(), Noting()
    callbacks = CallbackList([noting], model="the model", epochs=3)
    callbacks.append(other)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_train_batch_end(0, {"loss": 1.0})
    callbacks.on_test_batch_end(0)
    callbacks.on_epoch_end(0, {"loss": 1.0})
    callbacks.on_predict_end()
    callbacks.on_train_end()
    assert noting.calls == other.calls
    assert noting.calls[0] == "on_train_begin"
    assert len(noting.calls) == 7
    assert (noting.model, noting.params) == ("the model", {"epochs": 3})


def test_every_hook_of_a_list_is_passed_on():
    noting = Noting()
    callbacks = CallbackList([noting])
    for name in HOOKS:
        counted = "batch" in name or "epoch" in name
        getattr(callbacks, name)(*([0] if counted else []))
    assert noting.calls == list(HOOKS)


def test_a_list_is_a_callback_itself():
    alone, within = Noting(), Noting()
    fit(alone)
    fit(CallbackList([within]))
    assert within.calls == alone.calls


class Four:
    """A callback of torchkeras' kind."""

    def __init__(self):
        self.calls = []

    def on_fit_start(self, model):
        self.calls.append("fit_start")

    def on_train_epoch_end(self, model):
        self.calls.append(f"train {len(model.history)}")

    def on_validation_epoch_end(self, model):
        self.calls.append("validation")

    def on_fit_end(self, model):
        assert isinstance(model, KerasModel)
        self.calls.append("fit_end")


def test_torchkeras_four_hooks():
    four = Four()
    fit(four, epochs=4, validation_freq=2)
    assert [call.split()[0] for call in four.calls] == [
        "fit_start",
        "train",
        "train",
        "validation",
        "train",
        "train",
        "validation",
        "fit_end",
    ]


def test_one_of_the_four_will_do():
    class Some:
        def on_fit_end(self, model):
            self.done = True

    some = Some()
    fit(some)
    assert some.done


class Misspelt:
    def on_epoch_ended(self, epoch, logs=None):
        pass


class HalfMisspelt(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        pass

    def on_epoch_ended(self, epoch, logs=None):
        pass


def test_misspelt_hooks_are_told():
    with pytest.raises(TypeError, match=r"none of the hooks .* \(did you mean on_epoch_end\?\)"):
        fit(Misspelt())
    with pytest.warns(UserWarning, match=r"no hook on_epoch_ended .*; it is never called"):
        fit(HalfMisspelt())


@pytest.mark.parametrize("name", [name for name in HOOKS if "predict" not in name])
def test_an_error_says_which_hook_raised_it_and_the_others_are_told_of_the_end(name):
    ended = Noting()

    def fail(self, *args):
        message = "out of luck"
        raise RuntimeError(message)

    fail.__name__ = name
    unlucky = type("Unlucky", (Callback,), {name: fail})()
    model = model_of()
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        fit(ended, unlucky, model=model)
    assert f"raised by Unlucky.{name}" in "".join(caught.value.__notes__)
    assert "on_train_end" in ended.calls
    if name == "on_train_end":
        assert len(model.history) == 2


def test_evaluation_and_prediction_can_be_stopped():
    class Stop(Callback):
        seen = 0

        def on_test_batch_end(self, batch, logs=None):
            self.seen += 1
            self.model.stop_evaluating = True

        def on_predict_batch_end(self, batch, logs=None):
            self.model.stop_predicting = batch == 1

    model, stop = model_of(), Stop()
    figures = model.evaluate((X, Y), batch_size=5, verbose=0, callbacks=[stop])
    expected = nn.functional.mse_loss(model.net(X[:5]), Y[:5]).item()
    assert stop.seen == 1
    assert figures["val_loss"] == pytest.approx(expected)
    assert len(model.predict(X, batch_size=5, verbose=0, callbacks=[stop])) == 10
    assert len(model.predict(X, batch_size=5, verbose=0)) == 20
    stop.seen = 0
    fit(stop, model=model, epochs=3)
    assert stop.seen == 3  # a batch of each validation


def test_a_loss_that_is_not_finite_ends_the_fit_where_that_is_asked_for(tmp_path):
    x = X.clone()

    class Spoil(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                x[15] = torch.inf

    def run(*callbacks):
        x.copy_(X)
        model = model_of()
        model.fit(
            (x, Y), (X, Y), epochs=5, batch_size=10, shuffle=False, verbose=0, patience=9,
            callbacks=[Spoil(), *callbacks],
        )  # fmt: skip
        return model

    with pytest.raises(NonFiniteError):
        run()
    with pytest.raises(NonFiniteError):
        run(TerminateOnNaN(raise_error=True))
    terminate, noting = TerminateOnNaN(), Noting()
    model = run(terminate, noting)
    assert len(model.history) == 2
    assert noting.calls[-1] == "on_train_end"
    assert re.search(r"training loss \(MSELoss.*\) is .* epoch 3, training batch 2",
                     terminate.stopping_reason)  # fmt: skip
    assert all(torch.isfinite(p).all() for p in model.parameters())  # the best weights


def test_a_goal_stops_the_fit(capsys):
    stop = StopAt(0.5, "val_loss")
    model = fit(stop, epochs=500, verbose=2)
    losses = model.history.frame["val_loss"]
    assert losses.iloc[-1] <= 0.5 < losses.iloc[-2]
    assert "val_loss reached 0.5" in stop.stopping_reason
    assert "val_loss reached 0.5" in capsys.readouterr().out


def test_a_goal_to_rise_to():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 2, generator=generator)
    y = (x[:, 0] > 0).long()
    net = nn.Linear(2, 2)
    model = KerasModel(
        net, "cross_entropy", {"acc": "acc"}, torch.optim.Adam(net.parameters(), 0.1)
    )
    frame = model.fit(
        (x, y), (x, y), epochs=200, verbose=0, callbacks=[StopAt(0.95, "val_acc")], seed=0
    )
    assert frame["val_acc"].iloc[-1] >= 0.95
    assert (frame["val_acc"].iloc[:-1] < 0.95).all()


@pytest.mark.parametrize("value", [float("nan"), True])
def test_a_goal_must_be_a_number(value):
    with pytest.raises(ValueError, match="expected a finite number"):
        StopAt(value)


def test_early_stopping_is_still_called_after_a_goal():
    assert fit(EarlyStopping(patience=1), StopAt(-1.0), epochs=1).history.frame.shape[0] == 1
