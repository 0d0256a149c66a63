"""Numbers and flags of NumPy are accepted where those of Python are, in all public arguments."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fitorch
from fitorch import KerasModel, WarmupCosine, callbacks, flop_summary, losses, metrics, summary
from fitorch.callbacks import Callback
from fitorch.sklearn import KerasClassifier, KerasRegressor

X = torch.linspace(-1, 1, 24).reshape(12, 2)
Y = X.sum(1, keepdim=True)

# Values for arguments without a default, and for those whose default is None.
GIVEN = {
    "alpha": 0.5,
    "anneal_epochs": 3,
    "baseline": 0.5,
    "every": 2,
    "every_minutes": 1.5,
    "every_n_steps": 2,
    "initial_value_threshold": 0.5,
    "limit": 60.0,
    "lr": 0.1,
    "norm_type": 2.0,
    "num_classes": 3,
    "save_top_k": 2,
    "until": 1,
    "updates": 8,
    "value": 0.5,
}
PLACES = {
    "ckpt_dir": "w",
    "filename": "log.csv",
    "filepath": "w.pt",
    "backup_dir": "backup",
    "display_fn": print,
    "schedule": lambda epoch: 0.1,
    "pattern": "weight",
    "name": "tensorboard",
    "metric": lambda y_pred, y_true: (y_pred - y_true).abs().mean(),
}


def numpy_of(value):
    if isinstance(value, bool):
        return [np.bool_(value)]
    return [np.int64(value), np.int8(value)] if isinstance(value, int) else [np.float64(value)]


def numbers_in(function):
    """The arguments of a function that are numbers or flags, with a value of Python."""
    for name, parameter in inspect.signature(function).parameters.items():
        value = GIVEN.get(name, parameter.default)
        if isinstance(value, (bool, int, float)):
            yield name, value


def required_of(function):
    parameters = inspect.signature(function).parameters.items()
    needed = {n: p for n, p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD}
    values = {**PLACES, **GIVEN}
    return {n: values[n] for n, p in needed.items() if p.kind != p.VAR_POSITIONAL}


def makers():
    classes = [getattr(callbacks, name) for name in callbacks.__all__]
    classes = [c for c in classes if issubclass(c, Callback)]
    names = [n for n in losses.__all__ if inspect.isclass(getattr(losses, n))]
    classes += [getattr(losses, n) for n in names if issubclass(getattr(losses, n), nn.Module)]
    classes += [
        getattr(metrics, n) for n in ("AUC", "Accuracy", "IOU", "KS", "Precision", "Recall")
    ]
    return [*classes, WarmupCosine, fitorch.VLog]


MADE = [
    pytest.param(maker, name, value, id=f"{maker.__name__}-{name}-{type(value).__name__}")
    for maker in makers()
    for name, plain in numbers_in(maker)
    for value in numpy_of(plain)
]


@pytest.mark.parametrize(("maker", "name", "value"), MADE)
def test_constructors_take_them_as_those_of_python(maker, name, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_python = attempt(maker, name, value.item())
        assert attempt(maker, name, value) == with_python


def attempt(maker, name, value):
    """What making an object gives: the numbers in it, or the error."""
    required = required_of(maker)
    if maker.__name__ == "GradualUnfreeze":
        required["schedule"] = {0: "weight"}
    try:
        made = maker(**{**required, name: value})
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    public = {name: value for name, value in vars(made).items() if not name.startswith("_")}
    numbers = (bool, int, float, np.generic)
    return {k: float(v) for k, v in public.items() if isinstance(v, numbers)}


FIT = {
    "epochs": 2,
    "batch_size": 4,
    "patience": 2,
    "shuffle": False,
    "validation_split": 0.25,
    "validation_freq": 2,
    "steps_per_epoch": 2,
    "validation_steps": 1,
    "initial_epoch": 1,
    "verbose": 0,
    "cpu": True,
    "gradient_accumulation_steps": 2,
    "seed": 5,
    "max_time": 60.0,
    "clip_grad_norm": 0.5,
    "clip_grad_value": 0.5,
    "train_metrics": False,
    "num_workers": 0,
    "resume": False,
    "save_every_n_steps": 2,
    "save_every_minutes": 1.5,
    "keep": 1,
    "async_save": False,
    "elastic": True,
    "sync_batchnorm": True,
    "find_unused_parameters": False,
    "deterministic": False,
    "plot": False,
    "wandb": False,
}


def test_the_grid_has_every_number_and_flag_of_fit():
    known = {*FIT, "class_weight"}
    numbers = ("int", "float", "bool")
    parameters = inspect.signature(KerasModel.fit).parameters.values()
    named = {p.name for p in parameters if any(kind in str(p.annotation) for kind in numbers)}
    assert named - known == set()


def fitted(folder, **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(2, 1), "mse", {"mae": "mae"}, "sgd")
    options = {"epochs": 2, "batch_size": 4, "verbose": 0, "seed": 1, **options}
    if {"save_every_n_steps", "save_every_minutes", "keep", "elastic", "resume"} & {*options}:
        options["ckpt_path"] = folder / str(type(options["epochs"]))
    frame = model.fit((X, Y), (X, Y) if "validation_split" not in options else None, **options)
    return frame.drop(columns="seconds")


@pytest.mark.parametrize("name", FIT)
def test_fit_takes_them(name, tmp_path):
    expected = fitted(tmp_path / "python", **{name: FIT[name]})
    for number, value in enumerate(numpy_of(FIT[name])):
        pd.testing.assert_frame_equal(fitted(tmp_path / str(number), **{name: value}), expected)


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", np.int64(5)),
        ("steps", np.int32(1)),
        ("verbose", np.bool_(False)),
        ("num_workers", np.int64(0)),
    ],
)
def test_evaluate_and_predict_take_them(verb, name, value):
    model = KerasModel(nn.Linear(2, 1), "mse")
    data = (X, Y) if verb == "evaluate" else X
    options = {"verbose": 0, name: value}
    expected = getattr(model, verb)(data, **{"verbose": 0, name: value.item()})
    result = getattr(model, verb)(data, **options)
    same = torch.equal if verb == "predict" else dict.__eq__
    assert same(result, expected)


def test_find_lr_takes_them():
    def found(kind, real):
        torch.manual_seed(0)
        model = KerasModel(nn.Linear(2, 1), "mse", None, "sgd")
        options = {"start": real(1e-4), "end": real(1.0), "steps": kind(12), "seed": kind(3)}
        return model.find_lr((X, Y), batch_size=kind(4), **options)

    pd.testing.assert_frame_equal(found(np.int64, np.float64), found(int, float))


@pytest.mark.parametrize("function", [summary, flop_summary])
@pytest.mark.parametrize("shape", [(np.int64(2),), [np.int64(2)], np.array([2])], ids=type)
def test_summaries_take_shapes_of_them(function, shape):
    net = nn.Linear(2, 1)
    options = {"batch_size": np.int64(4), "depth": np.int64(1), "verbose": np.bool_(False)}
    table = function(net, input_shape=shape, **options)
    assert str(table) == str(function(net, input_shape=(2,), batch_size=4, depth=1, verbose=0))


@pytest.mark.parametrize("name", ["jit_compile", "channels_last", "fsdp", "deepspeed"])
def test_a_model_takes_flags(name):
    assert KerasModel(nn.Linear(2, 1), "mse", **{name: np.bool_(False)}) is not None


@pytest.mark.parametrize("estimator", [KerasClassifier, KerasRegressor])
def test_estimators_take_them(estimator):
    y = np.arange(12) % 2 if estimator is KerasClassifier else Y.numpy().ravel()

    def predictions(kind, flag):
        made = estimator(
            lambda n_features, n_outputs: nn.Linear(n_features, n_outputs),
            epochs=kind(2),
            batch_size=kind(4),
            random_state=kind(7),
            verbose=flag(False),
            fit__shuffle=flag(False),
        )
        return made.fit(X.numpy(), y).predict(X.numpy())

    np.testing.assert_array_equal(predictions(np.int64, np.bool_), predictions(int, bool))


def test_a_seed_of_numpy_is_that_of_python():
    fitorch.seed_everything(np.int64(3))
    first = torch.rand(2)
    fitorch.seed_everything(3)
    assert torch.equal(first, torch.rand(2))


@pytest.mark.parametrize("value", ["no", "yes", 0, 1.0, None])
@pytest.mark.parametrize(
    "name", ["shuffle", "cpu", "train_metrics", "async_save", "elastic", "deterministic"]
)
def test_flags_of_fit_are_checked(name, value):
    with pytest.raises(TypeError, match=f"{name} is {value!r}.*expected True or False"):
        KerasModel(nn.Linear(2, 1), "mse").fit((X, Y), epochs=1, verbose=0, **{name: value})


@pytest.mark.parametrize("verb", ["fit", "evaluate", "predict"])
def test_verbose_may_be_a_flag(verb, capsys):
    model = KerasModel(nn.Linear(2, 1), "mse")
    getattr(model, verb)((X, Y), verbose=False, **({"epochs": 1} if verb == "fit" else {}))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [3, -1, "no", 0.5])
def test_verbose_is_checked(value):
    with pytest.raises(ValueError, match=r"verbose is .*; expected one of 'auto', 0, 1, 2"):
        KerasModel(nn.Linear(2, 1), "mse").fit((X, Y), epochs=1, verbose=value)
