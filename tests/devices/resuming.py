"""Scenarios: a fit on the device that was stopped goes on with the bits of one that was not."""

import warnings

import torch
from torch.utils.data import DataLoader, TensorDataset

from devices.problems import (
    BINARY,
    CLASSES,
    DEVICE,
    OTHER,
    VALUES,
    X,
    check_same,
    linear,
    mlp,
    model_of,
    train,
)
from devices.scenarios import Scenarios
from fitorch import NotBitExactWarning, callbacks
from fitorch.callbacks import EMA, SWA, LambdaCallback
from fitorch.randomness import random_state, set_random_state

SCENARIOS = Scenarios()
WITHIN = 6  # updates, of 4 in an epoch


def _dropout_net():
    return mlp(dropout=0.5)


def _exponential(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def fit(device, folder=None, stop=None, *, make=None, resume=False, added=list, **options):
    """Train for two epochs; stop behind an update, or behind the first "epoch"."""
    model = model_of(device, **(make or {"net": _dropout_net}))

    def end(batch, logs):
        if model.updates == stop:
            raise KeyboardInterrupt

    def end_epoch(epoch, logs):
        if stop == "epoch":
            raise KeyboardInterrupt

    watch = LambdaCallback(on_train_batch_end=end, on_epoch_end=end_epoch)
    saving = {} if folder is None else {"ckpt_path": folder, "resume": resume}
    try:
        return train(
            model,
            options.pop("data", (X, VALUES)),
            options.pop("val_data", (X, VALUES)),
            epochs=2,
            callbacks=[*added(), watch],
            **saving,
            **options,
        )
    except KeyboardInterrupt:
        assert stop is not None
        return None


def check_goes_on(first, second=None, *, stop=WITHIN, async_save=False, **options):
    """Check that a fit that is stopped on one device goes on, on the same or another one."""
    options |= {"save_every_n_steps": 1, "async_save": async_save}
    whole = fit(first, "whole", **options)  # fits with a folder end with their best weights
    assert fit(first, "run", stop, **options) is None
    check_same(fit(second or first, "run", resume=True, **options), whole, rtol=0, atol=0)


def _loader():
    data = TensorDataset(X, VALUES)
    return DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(4))


CASES = {
    "sgd": {"make": {"net": _dropout_net, "optimizer": "sgd"}},
    "adam": {"make": {"net": _dropout_net, "optimizer": "adam"}},
    "metrics by torchmetrics": {
        "make": {"net": _dropout_net, "loss": "bce_with_logits", "metrics": {"ap": "ap"}},
        "data": (X, BINARY),
        "val_data": (X, BINARY),
    },
    "metrics of fitorch": {
        "make": {
            "net": _dropout_net,
            "loss": "bce_with_logits",
            "metrics": {"acc": "acc", "auc": "auc", "ks": "ks"},
        },
        "data": (X, BINARY),
        "val_data": (X, BINARY),
    },
    "f1": {
        "make": {"net": lambda: mlp(3, 0.5), "loss": "cross_entropy", "metrics": {"f1": "f1"}},
        "data": (X, CLASSES),
        "val_data": (X, CLASSES),
    },
    "EMA": {"added": lambda: [EMA(0.9)]},
    "SWA": {"added": lambda: [SWA(start=1, data=(X, VALUES))]},
    "GradientNorm": {"added": lambda: [callbacks.GradientNorm()]},
    "accumulation": {"gradient_accumulation_steps": 2, "batch_size": 4},
    "async_save": {"async_save": True},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "a schedule": {
        "make": {"net": _dropout_net, "lr_scheduler": _exponential},
        "scheduler_step": "update",
    },
    "data that is sent batch by batch": {"make": {"net": _dropout_net, "data_on_device": False}},
    "workers": {"data": TensorDataset(X, VALUES), "num_workers": 1},
    "class weights": {
        "make": {"net": lambda: mlp(3, 0.5), "loss": "cross_entropy"},
        "data": (X, CLASSES),
        "val_data": (X, CLASSES),
        "class_weight": {0: 1.0, 1: 2.0, 2: 0.5},
    },
}


@SCENARIOS.add_each("within an epoch:", CASES)
def _within(options):
    check_goes_on(DEVICE, **options)


@SCENARIOS.add
def between_epochs():
    check_goes_on(DEVICE, stop="epoch")


@SCENARIOS.add
def within_an_epoch_of_a_loader():
    whole = fit(DEVICE, "whole", data=_loader())
    assert fit(DEVICE, "run", WITHIN, data=_loader(), save_every_n_steps=1) is None
    found = fit(DEVICE, "run", resume=True, data=_loader(), save_every_n_steps=1)
    check_same(found, whole, rtol=0, atol=0)


@SCENARIOS.add
def on_the_other_device_with_the_same_random_numbers():
    check_goes_on(DEVICE, OTHER)


@SCENARIOS.add
def on_a_machine_with_fewer_devices():
    import simulated_device

    options = {"save_every_n_steps": 1}
    whole = fit(DEVICE, "whole")
    assert fit(OTHER, "run", WITHIN, **options) is None
    simulated_device.set_count(1)
    check_same(fit(DEVICE, "run", resume=True, **options), whole, rtol=0, atol=0)


MOVES = {
    "from the device to the CPU": (DEVICE, "cpu"),
    "from the CPU to the device": ("cpu", DEVICE),
}


@SCENARIOS.add_each("on a move", MOVES)
def _moves(places):
    first, second = places
    make = {
        "net": linear,
        "loss": "bce_with_logits",
        "metrics": {"acc": "acc", "auc": "auc", "ap": "ap"},
    }
    data = (X, BINARY)
    for stop in (WITHIN, "epoch"):
        whole = fit(first, f"whole{stop}", make=make, data=data, val_data=data)
        saving = {"save_every_n_steps": 1, "make": make, "data": data, "val_data": data}
        assert fit(first, f"run{stop}", stop, **saving) is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotBitExactWarning)  # generators of other devices
            found = fit(second, f"run{stop}", resume=True, **saving)
        check_same(found, whole)


@SCENARIOS.add
def restoring_a_model():
    fit(DEVICE, "run")
    for device in (OTHER, "cpu"):
        model = model_of(device, _dropout_net)
        model.restore("run")
        train(model, epochs=1)


@SCENARIOS.add
def random_states_of_devices_that_are_not_here_are_told():
    states = random_state()
    states["devices"]["far:5"] = states["devices"]["far:0"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        set_random_state(states)
    assert [each.category for each in told] == [NotBitExactWarning]
    assert "far:5" in str(told[0].message)


@SCENARIOS.add
def saving_changes_nothing():
    whole = fit(DEVICE, "whole")
    check_same(fit(DEVICE, "run", save_every_n_steps=1), whole, rtol=0, atol=0)
    check_same(fit(DEVICE, "other", save_every_n_steps=1, async_save=True), whole, rtol=0, atol=0)
    check_same(fit(DEVICE)["history"], whole["history"], rtol=0, atol=0)
