"""Scenarios: how often the host waits for the device in a step, a validation batch and an epoch.

Each returns a row of a table; test_waiting.py knows the goals. Counts are those of a longer epoch
without those of a shorter one, so that what is done once in a fit does not matter.
"""

import copy
from collections import Counter
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from devices.problems import DEVICE, linear, model_of, train
from devices.scenarios import Scenarios
from fitorch import callbacks
from fitorch.losses import L1, L2, term
from fitorch.metrics.registry import METRICS

SCENARIOS = Scenarios()
SHORT, LONG = 4, 36  # batches
LONGER = 68  # for metrics, which get 64 batches at once
SIZE = 4  # samples in a batch

X = torch.randn(LONGER * SIZE, 4, generator=torch.Generator().manual_seed(0))
VALUES = X[:, :1].abs() + 1
BINARY = (X[:, :1] > 0).float()
CLASSES = X[:, :3].argmax(1)
LABELS = (X[:, :3] > 0).float()


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def _arrays(x, y):
    return x, y


def _loader(x, y):
    return DataLoader(Pairs(x, y), SIZE)


def _pinned_loader(x, y):
    return DataLoader(Pairs(x, y), SIZE, pin_memory=True)


def _generator(x, y):
    return zip(x.split(SIZE), y.split(SIZE), strict=True)


def _weighted(x, y):
    return x, y, torch.ones(len(x))


def _in_parts(y_pred, y_true):
    error = (y_pred - y_true) ** 2
    return error.mean(), {"largest": error.max()}


def _exponential(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)


BINARY_TASK = {"loss": "bce_with_logits", "y": BINARY}
CLASS_TASK = {"loss": "cross_entropy", "net": lambda: linear(3), "y": CLASSES}

# What is passed to the model, to fit, and what data is made of.
CASES = {
    "bare": {},
    "a batch norm": {"net": lambda: nn.Sequential(linear(8), nn.BatchNorm1d(8), nn.Linear(8, 1))},
    "cross entropy": CLASS_TASK,
    "a metric that is a function": {"metrics": {"m": lambda p, y: (p - y).abs().mean()}},
    "acc and auc": {**BINARY_TASK, "metrics": {"acc": "acc", "auc": "auc"}},
    "acc of classes": {**CLASS_TASK, "metrics": {"acc": "acc"}},
    "EMA": {"callbacks": lambda: [callbacks.EMA()]},
    "SWA": {"callbacks": lambda: [callbacks.SWA(start=0)]},
    "GradientNorm": {"callbacks": lambda: [callbacks.GradientNorm()]},
    "BestWeights": {"callbacks": lambda: [callbacks.BestWeights()]},
    "TerminateOnNaN": {"callbacks": lambda: [callbacks.TerminateOnNaN()]},
    "EarlyStopping": {"callbacks": lambda: [callbacks.EarlyStopping()]},
    "clipping by norm": {"fit": {"clip_grad_norm": 1.0}},
    "clipping by value": {"fit": {"clip_grad_value": 1.0}},
    "class weights": {**CLASS_TASK, "fit": {"class_weight": [1.0, 2.0, 3.0]}},
    "sample weights": {"data": _weighted},
    "a penalty": {"loss": term(nn.MSELoss()) + 1e-3 * L2()},
    "two penalties": {"loss": term(nn.MSELoss()) + 1e-3 * L2() + 1e-3 * L1()},
    "two terms that count apart": {
        **CLASS_TASK,
        "loss": term(nn.CrossEntropyLoss()) + term(nn.MultiMarginLoss()),
    },
    "accumulation": {"fit": {"gradient_accumulation_steps": 2}},
    "accumulation of cross entropy": {**CLASS_TASK, "fit": {"gradient_accumulation_steps": 2}},
    "bf16": {"fit": {"mixed_precision": "bf16"}},
    "fp16": {"fit": {"mixed_precision": "fp16"}},
    "fp16 with a schedule per update": {
        "model": {"lr_scheduler": _exponential},
        "fit": {"mixed_precision": "fp16", "scheduler_step": "update"},
    },
    "fp16 of an optimizer that is not fused": {
        "optimizer": lambda p: torch.optim.Adam(p, fused=False),
        "fit": {"mixed_precision": "fp16", "clip_grad_norm": 1.0},
    },
    "a schedule per update": {
        "model": {"lr_scheduler": _exponential},
        "fit": {"scheduler_step": "update"},
    },
    "max_time": {"fit": {"max_time": 1000}},
    "a Dataset": {"data": Pairs},
    "a loader": {"data": _loader},
    "a loader with pinned memory": {"data": _pinned_loader},
    "a generator": {"data": _generator},
    "data that is sent batch by batch": {"model": {"data_on_device": False}},
    "a loss in parts": {"loss": _in_parts},
    "sgd": {"optimizer": "sgd"},
    "channels_last": {"model": {"channels_last": True}},
}


def _metric_cases():
    tasks = {"regression": ("mse", VALUES, 1), "binary": ("bce_with_logits", BINARY, 1)}
    tasks |= {"multiclass": ("cross_entropy", torch.arange(len(X)) % 6, 6)}
    for name, entry in METRICS.items():
        task = "regression" if entry.task else "binary"
        if name in ("balanced_accuracy", "top5_acc"):
            task = "multiclass"
        loss, y, outputs = tasks[task]
        case = {"loss": loss, "y": y, "net": partial(linear, outputs), "long": LONGER}
        if name == "msle":  # for what is not negative
            case["net"] = lambda: nn.Sequential(linear(), nn.Softplus())
        yield f"metric {name}", {**case, "metrics": {"m": name}}


CASES |= dict(_metric_cases())


def _made(case):
    return model_of(
        DEVICE,
        case.get("net", linear),
        copy.deepcopy(case.get("loss", "mse")),
        case.get("metrics"),
        case.get("optimizer", "adam"),
        **case.get("model", {}),
    )


def _waits_of_fit(case, batches, validated, epochs=1):
    """Return the waits of a fit, as (kind, place)."""
    import simulated_device

    model, make, y = _made(case), case.get("data", _arrays), case.get("y", VALUES)
    data = make(X[: batches * SIZE], y[: batches * SIZE])
    val_data = make(X[: validated * SIZE], y[: validated * SIZE])
    options = {"batch_size": SIZE, "epochs": epochs, **case.get("fit", {})}
    with simulated_device.counted() as waits:
        train(model, data, val_data, callbacks=case.get("callbacks", list)(), **options)
    return Counter((wait.kind, wait.place) for wait in waits)


def _row(**differences):
    """Return the waits per thing, and their places; `(fewer, more, number of things)` of each."""
    row = {}
    for name, (fewer, more, number) in differences.items():
        keys = fewer.keys() | more.keys()
        added = {key: (more[key] - fewer[key]) / number for key in sorted(keys)}
        added = {key: count for key, count in added.items() if count}
        row[name] = sum(count for (kind, _), count in added.items() if kind != "staged")
        row[f"staged_{name}"] = sum(count for (kind, _), count in added.items() if kind == "staged")
        row[f"places_{name}"] = {
            f"{kind} at {place}": round(count, 3) for (kind, place), count in added.items()
        }
    return row


@SCENARIOS.add_each("fit with", CASES)
def _fit(case):
    long = case.get("long", LONG)
    short = _waits_of_fit(case, SHORT, 1)
    found = {"step": (short, _waits_of_fit(case, long, 1), long - SHORT)}
    found["validation_batch"] = short, _waits_of_fit(case, SHORT, long), long - 1
    if case.get("data") is not _generator:
        found["epoch"] = short, _waits_of_fit(case, SHORT, 1, epochs=3), 2
    return _row(**found)


@SCENARIOS.add
def a_device_that_stages_no_copies():
    """As on MPS: the host must wait, as it uses the memory of what it has sent again at once."""
    import simulated_device
    from fitorch.devices import capabilities

    plain, capabilities._pins = capabilities._pins, lambda kind: False
    try:
        with simulated_device.counted() as waits:
            train(model_of(DEVICE, metrics={"mae": "mae"}), (X[:28], VALUES[:28]))
    finally:
        capabilities._pins = plain
    assert not [wait for wait in waits if wait.kind == "staged"], waits


@SCENARIOS.add
def each_checkpoint():
    def waits(batches):
        import simulated_device

        data = X[: batches * SIZE], VALUES[: batches * SIZE]
        with simulated_device.counted() as found:
            train(
                model_of(DEVICE),
                data,
                batch_size=SIZE,
                epochs=1,
                ckpt_path=f"run{batches}",
                save_every_n_steps=8,
            )
        return Counter((wait.kind, wait.place) for wait in found)

    return _row(checkpoint=(waits(SHORT), waits(LONG), (LONG - SHORT) / 8))


@SCENARIOS.add_each("only", {"evaluate": "evaluate", "predict": "predict"})
def _only(name):
    import simulated_device

    def waits(batches):
        model = model_of(DEVICE, loss="bce_with_logits", metrics={"acc": "acc"})
        data = (X[: batches * SIZE], BINARY[: batches * SIZE])
        with simulated_device.counted() as found:
            getattr(model, name)(data, batch_size=SIZE, verbose=0)
        return Counter((wait.kind, wait.place) for wait in found)

    return _row(batch=(waits(SHORT), waits(LONG), LONG - SHORT))
