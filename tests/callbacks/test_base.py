import re
import signal
import threading
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.callbacks.hooks import HOOKS, Hooks, emit
from fitorch.callbacks.logs import BatchLogs, EpochLogs

EVENT = re.compile(r"(on_\w+)\((epoch, logs|batch, logs|logs)\)")


def data(samples=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, generator=generator)
    return x, (x.sum(1, keepdim=True) > 0).float()


def make_model():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(2, 1), "bce_with_logits", {"acc": "acc"}, "sgd")


def fit(*callbacks, epochs=2, validates=True, **options):
    model = make_model()
    val_data = data() if validates else None
    model.fit(
        data(), val_data, epochs=epochs, batch_size=3, callbacks=callbacks, verbose=0, **options
    )
    return model


class Recorder(Callback):
    """Notes every event, with its number where it has one."""

    def __init__(self):
        self.events = []


def _recording(name):
    def hook(self, *args):
        numbers = [arg for arg in args if isinstance(arg, int)]
        self.events.append((name, *numbers))

    return hook


for _name in HOOKS:
    setattr(Recorder, _name, _recording(_name))


def listed(epochs, batches):
    """Run the listing in Callback's docstring."""
    lines = Callback.__doc__.split("::\n")[1].split("`evaluate` calls")[0].splitlines()
    depths = [(len(line) - len(line.lstrip()), line.strip()) for line in lines if line.strip()]

    def run(start, stop, number):
        events, row = [], start
        while row < stop:
            depth, line = depths[row]
            if line.startswith("for"):
                end = next((r for r in range(row + 1, stop) if depths[r][0] <= depth), stop)
                for count in range(epochs if "epoch" in line else batches):
                    events += run(row + 1, end, count)
                row = end
                continue
            if found := EVENT.match(line):
                counted = found[2] != "logs"
                events.append((found[1], number) if counted else (found[1],))
            row += 1
        return events

    return run(0, len(depths), None)


def test_the_loop_is_the_one_in_the_docstring():
    recorder = Recorder()
    fit(recorder, epochs=3)
    assert recorder.events == listed(epochs=3, batches=2)
    assert recorder.events[:4] == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        ("on_train_batch_begin", 0),
        ("on_train_batch_end", 0),
    ]


def test_epochs_that_do_not_validate_have_no_test_events():
    recorder = Recorder()
    fit(recorder, epochs=2, validation_freq=2)
    events = [event[0] for event in recorder.events]
    assert events.count("on_test_begin") == events.count("on_test_end") == 1
    assert events.index("on_test_begin") > events.index("on_epoch_end")


def test_evaluate_calls_the_test_hooks_and_predict_those_of_predict():
    recorder, model = Recorder(), make_model()
    model.evaluate(data(), batch_size=3, callbacks=[recorder], verbose=0)
    model.predict(data()[0], batch_size=3, callbacks=[recorder], verbose=0)
    for stage in ("test", "predict"):
        of_stage = [event for event in recorder.events if stage in event[0]]
        batches = [
            (f"on_{stage}_batch_{edge}", number) for number in (0, 1) for edge in ("begin", "end")
        ]
        assert of_stage == [(f"on_{stage}_begin",), *batches, (f"on_{stage}_end",)]
    assert len(recorder.events) == 12


def test_the_hooks_are_those_of_the_base_class():
    assert set(HOOKS) == {name for name in vars(Callback) if name.startswith("on_")}


def test_callbacks_learn_model_and_parameters():
    class Look(Callback):
        def on_train_begin(self, logs=None):
            self.seen = self.params, self.model

    look = Look()
    model = fit(look, epochs=2)
    assert look.seen == (
        {"epochs": 2, "steps": 2, "validation_steps": 2, "verbose": 0, "batch_size": 3},
        model,
    )


def test_epochs_count_on_in_a_second_fit():
    recorder, model = Recorder(), make_model()
    for _ in range(2):
        model.fit(data(), epochs=2, callbacks=[recorder], verbose=0)
    assert [event[1] for event in recorder.events if event[0] == "on_epoch_end"] == [0, 1, 2, 3]


def test_hooks_that_nobody_overrides_are_not_called():
    class Two(Callback):
        def on_epoch_end(self, epoch, logs=None):
            pass

        def on_train_end(self, logs=None):
            pass

    two = Two()
    hooks = Hooks.collect([Callback(), two, Two()])
    assert hooks.on_epoch_end[0] == two.on_epoch_end
    assert {name: len(getattr(hooks, name)) for name in HOOKS if getattr(hooks, name)} == {
        "on_epoch_end": 2,
        "on_train_end": 2,
    }


def test_hooks_are_called_in_the_order_of_their_callbacks():
    calls = []

    class Named(Callback):
        def __init__(self, name):
            self.name = name

        def on_train_begin(self, logs=None):
            calls.append(self.name)

    emit(Hooks.collect([Named("a"), Named("b"), Named("c")]).on_train_begin, {})
    assert calls == ["a", "b", "c"]


def test_an_overridden_hook_is_inherited():
    class Parent(Callback):
        def on_epoch_end(self, epoch, logs=None):
            pass

    class Child(Parent):
        pass

    assert len(Hooks.collect([Child()]).on_epoch_end) == 1


def test_any_object_with_a_hook_is_a_callback():
    class Duck:
        epochs = 0

        def on_epoch_end(self, epoch, logs):
            self.epochs += 1

    duck = Duck()
    fit(duck)
    assert duck.epochs == 2


def test_a_class_of_the_users_that_is_called_callback_is_no_base():
    calls = []
    kind = type("Callback", (), {"on_epoch_end": lambda self, epoch, logs: calls.append(epoch)})
    fit(kind())
    assert calls == [0, 1]


def test_keras_own_base_costs_nothing():
    def nothing(self, *args):
        pass

    hooks = dict.fromkeys(HOOKS, nothing)
    base = type("Callback", (), {**hooks, "__module__": "keras.src.callbacks.callback"})
    own = type("Own", (base,), {"on_epoch_end": lambda self, epoch, logs=None: None})
    collected = Hooks.collect([own()])
    assert [name for name in HOOKS if getattr(collected, name)] == ["on_epoch_end"]


def test_hooks_may_be_attributes_of_the_instance():
    calls = []

    class Lambdas(Callback):
        def __init__(self, **hooks):
            self.__dict__.update(hooks)

    fit(
        Lambdas(on_epoch_end=lambda epoch, logs: calls.append(epoch)),
        Lambdas(on_train_end=lambda logs: calls.append("end"), on_epoch_begin=None),
    )
    assert calls == [0, 1, "end"]


def test_a_mock_is_a_callback():
    mock = MagicMock()
    fit(mock)
    assert mock.on_epoch_end.call_count == 2
    assert mock.on_train_batch_end.call_count == 4


def test_kerass_short_names_of_the_batch_hooks_work():
    calls = []

    class Short(Callback):
        def on_batch_begin(self, batch, logs=None):
            calls.append(("begin", batch))

        def on_batch_end(self, batch, logs=None):
            calls.append(("end", batch))

    fit(Short(), epochs=1)
    assert calls == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]


@pytest.mark.parametrize(
    ("hook", "function", "expected"),
    [
        ("on_epoch_end", lambda self, logs: None, "epoch, logs"),
        ("on_train_batch_end", lambda self: None, "batch, logs"),
        ("on_batch_end", lambda self, batch, logs, more: None, "batch, logs"),
        ("on_train_begin", lambda self: None, "logs"),
        ("on_test_end", lambda self, epoch, logs: None, "logs"),
        ("on_epoch_begin", lambda self, epoch, *, logs: None, "epoch, logs"),
    ],
)
def test_a_hook_with_the_wrong_signature_is_refused_before_training(hook, function, expected):
    wrong = type("Wrong", (Callback,), {hook: function})()
    with pytest.raises(TypeError, match=rf"Wrong\.{hook} must take \({expected}\), but"):
        fit(wrong)


def test_optional_and_collecting_arguments_are_fine():
    class Free(Callback):
        def on_epoch_end(self, *args, **kwargs):
            pass

        def on_train_batch_end(self, step, figures=None, extra=3):
            pass

    fit(Free())


def test_a_class_instead_of_an_instance_is_refused():
    with pytest.raises(TypeError, match=r"holds the class Recorder; pass Recorder\(\.\.\.\)"):
        fit(Recorder)


@pytest.mark.parametrize("wrong", [3, "early", object(), None])
def test_an_object_without_hooks_is_refused(wrong):
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=f"a {kind} that has none of the hooks on_train_begin"):
        fit(wrong)


def test_batch_logs_are_read_only_when_looked_at():
    reads = []

    def read():
        reads.append(1)
        return {"train_loss": 0.5, "train_acc": 1.0}

    logs = BatchLogs("train_", read)
    assert logs
    assert not reads
    assert logs["train_loss"] == logs["loss"] == 0.5
    assert logs.get("acc") == 1.0
    assert logs.get("auc", 7) == 7
    assert "loss" in logs
    assert "auc" not in logs
    assert dict(logs.items()) == logs.copy() == dict(logs) == read()
    assert sorted(logs.values()) == [0.5, 1.0]
    assert len(logs) == 2
    with pytest.raises(KeyError):
        logs["auc"]


def test_batch_logs_give_the_mean_over_the_epoch_so_far():
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((logs["loss"], logs["train_acc"]))

    class LookAtValidation(Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append((logs["val_loss"], logs["acc"]))

    x, y = data()
    model = KerasModel(
        nn.Linear(2, 1),
        "bce_with_logits",
        {"acc": "acc"},
        lambda p: torch.optim.SGD(p, lr=0.0),
    )
    model.fit(
        (x, y),
        (x, y),
        epochs=1,
        batch_size=4,
        shuffle=False,
        callbacks=[Look(), LookAtValidation()],
        verbose=0,
    )
    with torch.no_grad():
        expected = [
            (
                nn.functional.binary_cross_entropy_with_logits(model(x[:n]), y[:n]).item(),
                ((model(x[:n]) > 0) == (y[:n] > 0)).float().mean().item(),
            )
            for n in (4, 6)
        ]
    assert seen == [pytest.approx(pair) for pair in expected * 2]


def test_epoch_logs_know_kerass_names():
    logs = EpochLogs({"train_loss": 1.0, "train_acc": 0.5, "lr": 0.1, "val_loss": 2.0})
    assert logs["loss"] == logs["train_loss"] == logs.get("loss") == 1.0
    assert logs.get("acc") == 0.5
    assert logs.get("val_acc") is None
    assert logs.get("val_acc", 3.0) == 3.0
    assert {"loss", "acc", "lr", "val_loss"} <= {
        n for n in ("loss", "acc", "lr", "val_loss") if n in logs
    }
    assert "val_acc" not in logs
    assert list(logs) == ["train_loss", "train_acc", "lr", "val_loss"]
    for missing in ("val_acc", "train_auc"):
        with pytest.raises(KeyError, match=f"^'{missing}'$"):
            logs[missing]


class Stops(Callback):
    def __init__(self, hook, at):
        def stop(number, logs=None):
            self.model.stop_training |= number == at

        setattr(self, hook, stop)


def test_stopping_in_a_batch_hook_ends_the_epoch_after_that_batch():
    recorder = Recorder()
    model = fit(Stops("on_train_batch_end", 0), recorder, epochs=5)
    batches = [event for event in recorder.events if event[0] == "on_train_batch_end"]
    assert batches == [("on_train_batch_end", 0)]
    assert len(model.history) == 1
    assert model.progress.epochs == 1
    assert recorder.events[-1] == ("on_train_end",)
    assert ("on_test_end",) in recorder.events


def test_stopping_in_an_epoch_hook_ends_training_after_that_epoch():
    model = fit(Stops("on_epoch_end", 1), epochs=5)
    assert model.history.frame["epoch"].tolist() == [1, 2]


def test_stopping_finishes_the_window_that_has_begun():
    recorder = Recorder()
    model = make_model()
    model.fit(
        data(12),
        epochs=2,
        batch_size=2,
        gradient_accumulation_steps=4,
        callbacks=[Stops("on_train_batch_end", 1), recorder],
        verbose=0,
    )
    batches = [event[1] for event in recorder.events if event[0] == "on_train_batch_end"]
    assert batches == [0, 1, 2, 3]
    assert model.progress.updates == 1


def test_a_fit_that_was_stopped_goes_on_in_the_next():
    model = make_model()
    model.fit(data(), epochs=3, callbacks=[Stops("on_epoch_end", 0)], verbose=0)
    model.fit(data(), epochs=2, verbose=0)
    assert model.history.frame["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_train_batch_end", "on_test_batch_end"])
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_in_a_callback_ends_training_cleanly(hook, error):
    def fail(self, number, logs=None):
        if self.model.history.frame.shape[0]:
            raise error

    recorder = Recorder()
    failing = type("Failing", (Callback,), {hook: fail})()
    model = make_model()
    modes = [module.training for module in model.net.modules()]
    with pytest.raises(error):
        model.fit(
            data(),
            data(),
            epochs=5,
            callbacks=[failing, recorder],
            verbose=0,
        )
    assert recorder.events[-1] == ("on_train_end",)
    assert len(model.history) == 1
    assert [module.training for module in model.net.modules()] == modes
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model.fit(data(), epochs=1, verbose=0)


def test_fit_works_outside_the_main_thread():
    recorder = Recorder()
    thread = threading.Thread(target=fit, args=(recorder,))
    thread.start()
    thread.join()
    assert recorder.events[-1] == ("on_train_end",)
