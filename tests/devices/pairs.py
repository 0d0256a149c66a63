"""Fits of two processes, each on a device of its own, and of one on the CPU for comparison.

A scenario is a function that returns figures. It runs in three forks: as two processes of a group
on `far:0` and `far:1`, and alone on the CPU, where the figures have to be the same. Forks, because
after an error a process can't be of a group again. The scenarios of `PAIRS` do not run alone: they
check by themselves.
"""

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import distributed, nn

from devices.problems import (
    BINARY,
    CLASSES,
    VALUES,
    X,
    check_same,
    linear,
    mlp,
    model_of,
    train,
)
from devices.scenarios import Scenarios
from fitorch.callbacks import EMA, GradientNorm, LambdaCallback
from fitorch.losses import L2, term

SAME, PAIRS = Scenarios(), Scenarios()
PATIENCE = 60  # seconds for a scenario
WORLD = 2
SHORT, LONG = 4, 36  # rounds of batches


def is_pair():
    return "WORLD_SIZE" in os.environ


def model(net=linear, loss="mse", metrics=None, optimizer="adam", **options):
    return model_of(None if is_pair() else "cpu", net, loss, metrics, optimizer, **options)


def fit(made, data=(X, VALUES), val_data=None, **options):
    """Train with 8 samples in a step, of however many processes."""
    size = 4 if is_pair() else 8
    return train(made, data, val_data, **{"batch_size": size, **options})


# What has the figures of one process


def _mean_error(y_pred, y_true):
    return (y_pred - y_true).abs().mean()


def _weighted_cross_entropy():
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))


def _with_torchmetrics():
    from torchmetrics.classification import BinaryF1Score

    return {"object": BinaryF1Score()}


CASES = {
    "a bare net": {},
    "a function": {"metrics": lambda: {"m": _mean_error}},
    "cross entropy": {"net": lambda: linear(3), "loss": nn.CrossEntropyLoss, "y": CLASSES},
    "cross entropy with weights": {
        "net": lambda: linear(3),
        "loss": _weighted_cross_entropy,
        "y": CLASSES,
    },
    "cross entropy with ignored targets": {
        "net": lambda: linear(3),
        "loss": nn.CrossEntropyLoss,
        "y": CLASSES.where(X[:, 3] > 0, -100),
    },
    "class_weight": {
        "net": lambda: linear(3),
        "loss": nn.CrossEntropyLoss,
        "y": CLASSES,
        "fit": {"class_weight": [1.0, 2.0, 0.5]},
    },
    "terms that count apart": {
        "net": lambda: linear(3),
        "loss": lambda: term(nn.CrossEntropyLoss()) + term(nn.MultiMarginLoss()) + 1e-2 * L2(),
        "y": CLASSES.where(X[:, 3] > -0.5, -100).clamp_min(0),
    },
    "accumulation": {"fit": {"gradient_accumulation_steps": 2}},
    "clipping": {"fit": {"clip_grad_norm": 0.1}},
    "callbacks": {"callbacks": lambda: [EMA(0.9), GradientNorm()]},
    # Adam divides small gradients, which differ in the last places of fp16, by themselves.
    "fp16": {"fit": {"mixed_precision": "fp16"}, "rtol": 5e-2},
    "bf16": {"fit": {"mixed_precision": "bf16"}, "rtol": 2e-2},
    "sync_batchnorm": {"net": mlp, "optimizer": "sgd", "fit": {"sync_batchnorm": True}},
    "data that is sent batch by batch": {"model": {"data_on_device": False}},
}
BINARY_TASK = {"loss": nn.BCEWithLogitsLoss, "y": BINARY}
CASES |= {
    "metrics of fitorch": {
        **BINARY_TASK,
        "metrics": lambda: {"acc": "acc", "auc": "auc", "ks": "ks"},
    },
    "metrics of torchmetrics by name": {
        **BINARY_TASK,
        "metrics": lambda: {"f1": "f1", "ap": "ap"},
    },
    "an object of torchmetrics": {**BINARY_TASK, "metrics": _with_torchmetrics},
}


@SAME.add_each("fit with", CASES)
def _case(case):
    made = model(
        case.get("net", linear),
        case.get("loss", nn.MSELoss)(),
        case.get("metrics", dict)(),
        case.get("optimizer", "adam"),
        **case.get("model", {}),
    )
    data = X, case.get("y", VALUES)
    callbacks = case.get("callbacks", list)()
    return fit(made, data, data, callbacks=callbacks, **case.get("fit", {}))


@SAME.add
def evaluate():
    made = model(loss="bce_with_logits", metrics={"acc": "acc"})
    return made.evaluate((X, BINARY), batch_size=4 if is_pair() else 8, verbose=0)


@SAME.add
def predict():
    return model(mlp).predict(X, batch_size=4, verbose=0)


# What is checked in the processes themselves


def _resumed(**options):
    """Check that a fit goes on exactly, also its random numbers."""

    def fitted(stop=None, folder=None, resume=False, **options):
        made = model(lambda: mlp(dropout=0.5), metrics={"m": _mean_error})

        def end(batch, logs):
            if made.updates == stop:
                made.stop_training = True

        saving = {} if folder is None else {"ckpt_path": folder, "resume": resume}
        watch = LambdaCallback(on_train_batch_end=end)
        return fit(made, val_data=(X, VALUES), callbacks=[watch], **saving, **options)

    whole = fitted(folder="whole", **options)  # fits with a folder end with their best weights
    saving = {"folder": "run", **options}
    fitted(6, **saving)
    check_same(fitted(resume=True, **saving), whole, rtol=0, atol=0)


@PAIRS.add
def resume():
    _resumed()


@PAIRS.add
def resume_of_async_saves():
    _resumed(async_save=True)


@PAIRS.add
def each_process_has_a_device_of_its_own():
    made = model()
    fit(made)
    place = next(made.net.parameters()).device
    assert place == torch.device("far", int(os.environ["RANK"])), place


@PAIRS.add
def the_device_of_a_process_is_its_current_one():
    torch.far.set_device(0)

    def check(logs):
        assert torch.far.current_device() == int(os.environ["RANK"]), torch.far.current_device()

    fit(model(), callbacks=[LambdaCallback(on_train_begin=check)])


# How often a step waits

WAITING = {
    name: CASES[name]
    for name in (
        "a bare net",
        "metrics of fitorch",
        "cross entropy",
        "class_weight",
        "terms that count apart",
        "accumulation",
        "clipping",
        "callbacks",
        "fp16",
        "sync_batchnorm",
    )
}


@PAIRS.add_each("step with", WAITING)
def _waits(case):
    import simulated_device

    def waits(rounds):
        data = (X, case.get("y", VALUES))
        x, y = (tensor.repeat(11, *[1] * (tensor.dim() - 1))[: 8 * rounds] for tensor in data)
        made = model(
            case.get("net", linear),
            case.get("loss", nn.MSELoss)(),
            case.get("metrics", dict)(),
            case.get("optimizer", "adam"),
        )
        callbacks = case.get("callbacks", list)()
        with simulated_device.counted() as found:
            fit(made, (x, y), epochs=1, callbacks=callbacks, **case.get("fit", {}))
        return Counter(f"{wait.kind} at {wait.place}" for wait in found if wait.kind != "staged")

    more = waits(LONG)
    more.subtract(waits(SHORT))
    places = {place: count / (LONG - SHORT) for place, count in more.items() if count}
    goal = 1 if "fp16" in str(case.get("fit")) else 0
    assert sum(places.values()) <= goal + 0.1, f"waits a step: {places}"


# Forks

# A fork that collected the store of an earlier scenario would wait for its thread, which it lacks.
_STORES = []


def _fork(function, folder, name, environment):
    """Run a function in a fork, which leaves `name.pickle` in a folder; return its pid."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(environment)
        printed = os.open(folder / f"{name}.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        if is_pair():
            torch.far.set_device(int(environment["RANK"]))
        _leave(function, folder, name)
        code = 0
    finally:
        os._exit(code)


def _leave(function, folder, name):
    """Leave what a function returns, or its error."""
    os.chdir(folder)
    error, value = None, None
    try:
        value = function()
    except BaseException:
        error = traceback.format_exc()
    file = folder / f"{name}.part"
    file.write_bytes(pickle.dumps((error, value)))
    file.rename(folder / f"{name}.pickle")
    if distributed.is_initialized() and error is None:
        distributed.destroy_process_group()


def _wait(children):
    """Wait for processes; end them if it takes too long."""
    end = time.monotonic() + PATIENCE
    left = set(children)
    while left:
        left -= {child for child in left if os.waitpid(child, os.WNOHANG)[0]}
        if time.monotonic() > end:
            for child in left:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return
        time.sleep(0.01)


def run_one(function):
    """Run a scenario; return its outcome."""
    from torch.distributed import TCPStore

    began, alone = time.perf_counter(), function in SAME.values()
    rtol = RTOLS.get(next(name for name, each in SCENARIOS.items() if each is function), 1e-6)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)
    common = {"WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    surroundings = {
        str(rank): {**common, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(WORLD)
    }
    if alone:
        surroundings["alone"] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _wait([_fork(function, folder, *each) for each in surroundings.items()])
        found = {name: _left(folder, name) for name in surroundings}
    errors = [f"process {name}: {error}" for name, (error, _) in found.items() if error]
    if alone and not errors:
        errors += _differences(found, rtol)
    error = "\n".join(errors) or None
    return {"error": error, "value": None, "seconds": time.perf_counter() - began}


def _left(folder, name):
    """Return what a fork has left: an error or None, and a value."""
    file = folder / f"{name}.pickle"
    if file.exists():
        return pickle.loads(file.read_bytes())
    return f"it has ended or hangs: {(folder / f'{name}.txt').read_text()[-2000:]}", None


def _differences(found, rtol):
    expected = found.pop("alone")[1]
    compared = [_difference(value, expected, rtol) for _, value in found.values()]
    return list(filter(None, compared))


def _difference(value, expected, rtol):
    try:
        check_same(value, expected, rtol, rtol / 10)
    except AssertionError as error:
        return str(error)
    return ""


RTOLS = {f"fit with {name}": case["rtol"] for name, case in CASES.items() if "rtol" in case}
SCENARIOS = {**SAME, **PAIRS}
