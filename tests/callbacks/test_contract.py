"""Rules that hold for every callback that fitorch exports."""

import inspect
import io

import pytest
import torch
from torch import nn

from fitorch import History, KerasModel, callbacks
from fitorch.callbacks import Callback
from fitorch.callbacks.hooks import HOOKS, Hooks


def same_rate(epoch, lr):
    return lr


ARGUMENTS = {
    "BackupAndRestore": {"backup_dir": "backup"},
    "BestWeights": {},
    "CSVLogger": {"filename": "log.csv"},
    "EarlyStopping": {"patience": 3},
    "Freeze": {"pattern": "bias", "until": 0},
    "GradualUnfreeze": {"schedule": {0: "*"}},
    "JSONLinesLogger": {"filename": "log.jsonl"},
    "LearningRateScheduler": {"schedule": same_rate},
    "MaxTime": {"limit": 60},
    "ModelCheckpoint": {"filepath": "{epoch}.safetensors"},
    "StopAt": {"value": -1.0},
    "VisDisplay": {"display_fn": id},
    "Tracker": {"name": "tensorboard"},
}
LIBRARIES = {
    "TensorBoardCallback": "tensorboard",
    "Tracker": "tensorboard",
    "WandbCallback": "wandb",
}
KINDS = [
    kind
    for kind in (*(getattr(callbacks, name) for name in callbacks.__all__), History)
    if inspect.isclass(kind) and issubclass(kind, Callback)
]
EVERY = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
STATEFUL = pytest.mark.parametrize(
    "kind",
    [k for k in KINDS if hasattr(k, "state_dict") and k is not callbacks.MonitorCallback],
    ids=lambda kind: kind.__name__,
)


@pytest.fixture(autouse=True)
def files_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")


def make(kind):
    pytest.importorskip(LIBRARIES.get(kind.__name__, "torch"))
    return kind(**ARGUMENTS.get(kind.__name__, {}))


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=generator)
    return x, x[:, :1]


def fit(callback, model=None, epochs=2, **options):
    torch.manual_seed(0)
    model = model or KerasModel(nn.Linear(2, 1), "mse", optimizer="sgd")
    model.fit(data(), data(), epochs=epochs, callbacks=[callback], seed=1, verbose=0, **options)
    return model


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return first == second


def stored(state):
    """The state after a way over the disk, loaded safely."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@EVERY
def test_it_is_documented(kind):
    assert inspect.getdoc(kind)
    for name in HOOKS:
        assert inspect.getdoc(getattr(kind, name)), name


@EVERY
def test_its_hooks_can_be_collected(kind):
    hooks = Hooks.collect([make(kind)])
    overridden = {name for name in HOOKS if any(name in vars(base) for base in _own_bases(kind))}
    assert {name for name in HOOKS if getattr(hooks, name)} == overridden


def _own_bases(kind):
    return [base for base in kind.__mro__ if base not in (Callback, object)]


@EVERY
def test_it_serves_a_fit_without_changing_it(kind, capsys):
    with_it, without = fit(make(kind)), fit(Callback())
    figures = ["epoch", "train_loss", "lr"]
    assert with_it.history.frame[figures].equals(without.history.frame[figures])


@EVERY
def test_it_serves_two_fits_and_two_models(kind, capsys):
    callback = make(kind)
    model = fit(callback)
    fit(callback, model)
    assert len(model.history) == 4
    assert len(fit(callback).history) == 2


@EVERY
def test_it_serves_fits_that_validate_seldom_or_never(kind, capsys):
    fit(make(kind), validation_freq=2)
    callback = make(kind)
    if getattr(callback, "monitor", "") == "val_loss":
        callback.monitor = "train_loss"
    model = KerasModel(nn.Linear(2, 1), "mse")
    model.fit(data(), epochs=2, callbacks=[callback], verbose=0)


@STATEFUL
def test_its_state_comes_back_from_the_disk(kind, capsys):
    first, second = make(kind), make(kind)
    fit(first)
    second.load_state_dict(stored(first.state_dict()))
    assert same(second.state_dict(), first.state_dict())
    assert not same(make(kind).state_dict(), first.state_dict())


@STATEFUL
def test_its_state_outlives_the_beginning_of_a_fit(kind, capsys):
    first, second = make(kind), make(kind)
    model = fit(first)
    second.set_model(model)
    second.load_state_dict(stored(first.state_dict()))
    second.on_train_begin({})
    assert same(second.state_dict(), first.state_dict())


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k is not callbacks.Progress], ids=lambda kind: kind.__name__
)
def test_it_is_quiet_with_verbose_0(kind, capsys):
    fit(make(kind))
    assert capsys.readouterr() == ("", "")
