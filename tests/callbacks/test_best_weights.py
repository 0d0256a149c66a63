import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import BestWeights, Callback, NonFiniteMetricWarning


class Net(nn.Module):
    """Tied weights, a buffer that training moves, and a parameter that tells the epoch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.norm(self.second(self.first(x))))


class Script(Callback):
    """Keeps the weights after each epoch, and gives each epoch its monitored figure."""

    def __init__(self, *figures, error=None):
        self.figures, self.error = figures, error
        self.states = []

    def set_model(self, model):
        self.model = model

    def on_test_end(self, logs=None):
        logs["val_script"] = self.figures[len(self.states)]
        state = self.model.net.state_dict()
        self.states.append({name: tensor.clone() for name, tensor in state.items()})

    def on_epoch_begin(self, epoch, logs=None):
        if self.error is not None and len(self.states) == len(self.figures):
            raise self.error


def data(samples=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, generator=generator)
    return x, x[:, :1]


def script_metric(y_pred, y_true):
    return torch.zeros(())


def make_model(net=None):
    torch.manual_seed(0)
    return KerasModel(
        net or Net(),
        "mse",
        {"script": script_metric},
        lambda p: torch.optim.SGD(p, lr=0.1),
    )


def fit(script, model=None, mode="min", callbacks=(), **options):
    model = model or make_model()
    model.fit(
        data(),
        data(),
        epochs=len(script.figures) + (script.error is not None),
        monitor="val_script",
        mode=mode,
        callbacks=[script, *callbacks],
        verbose=0,
        **options,
    )
    return model


def assert_state(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize(
    ("mode", "figures", "best"),
    [
        ("min", (5.0, 3.0, 4.0), 1),
        ("max", (5.0, 3.0, 4.0), 0),
        ("min", (5.0, 4.0, 3.0), 2),
        ("min", (3.0, 3.0, 3.0), 0),
        ("min", (5.0, math.inf, 2.0, 2.5), 2),
    ],
)
def test_the_net_gets_the_weights_of_its_best_epoch(mode, figures, best):
    script = Script(*figures)
    model = fit(script, mode=mode, patience=99)
    assert_state(model.net.state_dict(), script.states[best])
    assert model.history.best["epoch"] == best + 1
    assert model.net.second.weight is model.net.first.weight


def test_without_patience_or_folder_the_last_weights_stay():
    script = Script(3.0, 4.0, 5.0)
    assert_state(fit(script).net.state_dict(), script.states[-1])


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(Script(3.0, 4.0), patience=5)
    assert not list(tmp_path.iterdir())


def test_the_file_holds_the_best_weights_for_plain_torch(tmp_path):
    script = Script(5.0, 3.0, 4.0)
    fit(script, ckpt_path=tmp_path / "runs" / "first")
    path = tmp_path / "runs" / "first" / "best.safetensors"
    written = {child.name for child in path.parent.iterdir()}
    assert written == {"best.safetensors", "checkpoints", "history.csv"}
    net = Net()
    net.load_state_dict(load_file(path), strict=True)
    assert_state(net.state_dict(), script.states[1])
    assert net.norm.num_batches_tracked == 2


def test_the_file_says_what_was_best(tmp_path):
    fit(Script(5.0, 3.25, 4.0), ckpt_path=tmp_path)
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        assert file.metadata() == {"epoch": "2", "monitor": "val_script", "value": "3.25"}


def test_the_file_is_there_after_each_improvement(tmp_path):
    seen = []

    class Look(Callback):
        def on_epoch_end(self, epoch, logs=None):
            with safe_open(tmp_path / "best.safetensors", "pt") as file:
                seen.append(file.metadata()["epoch"])

    fit(Script(5.0, 3.0, 4.0, 2.0), callbacks=[Look()], ckpt_path=tmp_path)
    assert seen == ["1", "2", "2", "4"]


def test_nan_is_never_best(tmp_path):
    script = Script(math.nan, 5.0, math.nan, 4.0, 4.5)
    with pytest.warns(NonFiniteMetricWarning, match="val_script is NaN"):
        model = fit(script, ckpt_path=tmp_path)
    assert_state(model.net.state_dict(), script.states[3])
    assert_state(load_file(tmp_path / "best.safetensors"), script.states[3])
    assert model.history.best["epoch"] == 4


def test_the_last_weights_stay_where_all_is_nan(tmp_path):
    script = Script(math.nan, math.nan)
    with pytest.warns(NonFiniteMetricWarning):
        model = fit(script, ckpt_path=tmp_path)
    assert_state(model.net.state_dict(), script.states[-1])
    assert not (tmp_path / "best.safetensors").exists()
    assert model.history.best == {}


@pytest.mark.parametrize("error", [ArithmeticError("oops"), KeyboardInterrupt()])
def test_the_best_weights_are_restored_when_an_error_ends_training(tmp_path, error):
    script, model = Script(5.0, 3.0, 4.0, error=error), make_model()
    with pytest.raises(type(error)):
        fit(script, model, ckpt_path=tmp_path)
    assert_state(model.net.state_dict(), script.states[1])
    assert_state(load_file(tmp_path / "best.safetensors"), script.states[1])
    assert len(model.history) == 3


def test_a_callback_of_the_users_own_begins_each_fit_afresh():
    best, first, second = BestWeights("val_script", "min"), Script(1.0, 2.0), Script(9.0, 8.0, 9.0)
    fit(first, callbacks=[best])
    model = fit(second, callbacks=[best])
    assert_state(model.net.state_dict(), second.states[1])


def test_a_callback_serves_another_net():
    best = BestWeights("val_script", "min")
    fit(Script(1.0, 2.0), callbacks=[best])
    torch.manual_seed(1)
    script = Script(4.0, 3.0, 5.0)
    model = fit(script, make_model(nn.Linear(2, 1)), callbacks=[best])
    assert_state(model.net.state_dict(), script.states[1])


def test_loading_a_state_does_not_tie_it_to_the_callback():
    best = BestWeights("val_script", "min")
    fit(Script(5.0), callbacks=[best])
    state = best.state_dict()["weights"]["net"]
    before = {name: tensor.clone() for name, tensor in state.items()}
    other = BestWeights("val_script", "min")
    other.load_state_dict(best.state_dict())
    fit(Script(4.0, 3.0), callbacks=[other])
    assert_state(state, before)


def test_what_is_no_tensor_in_a_state_dict_is_restored_too():
    class Noted(nn.Linear):
        note = "new"

        def get_extra_state(self):
            return {"note": self.note}

        def set_extra_state(self, state):
            self.note = state["note"]

    class Annotate(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.net.note = f"epoch {epoch + 1}"

    model = make_model(Noted(2, 1))
    best = BestWeights("val_note", "min")
    model.metrics_dict = {"note": script_metric}

    class Figures(Callback):
        def on_test_end(self, logs=None):
            logs["val_note"] = {"epoch 1": 3.0, "epoch 2": 1.0, "epoch 3": 2.0}[self.model.net.note]

    model.fit(data(), data(), epochs=3, callbacks=[Annotate(), Figures(), best], verbose=0)
    assert model.net.note == "epoch 2"
