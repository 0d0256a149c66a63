"""A few seconds of training here, compared with loops by hand: `python -m fitorch`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fitorch.checkpoint.listing import list_checkpoints

from .environment import devices
from .model import KerasModel
from .randomness import undisturbed_randomness

_SAMPLES, _BATCH, _EPOCHS = 50, 16, 3  # the last batch is shorter


class CheckFailed(Exception):
    """Something is not as it must be; the message says what."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended.

    Args:
        name: What must hold.
        error: Why it does not, "" where it does.
        seconds: How long that took.
    """

    name: str
    error: str
    seconds: float


Check = tuple[str, Callable[[], None]]


def outcomes(checks: Sequence[Check] | None = None) -> Iterator[Outcome]:
    """Run checks one by one; the global random generators stay as they were.

    Args:
        checks: What must hold, and what raises where it does not; None is all of ours.
    """
    for name, check in all_checks() if checks is None else checks:
        begun, error = time.perf_counter(), ""
        try:
            with undisturbed_randomness():
                torch.manual_seed(0)
                check()
        except Exception as failure:
            error = _told(failure)
        yield Outcome(name, error, time.perf_counter() - begun)


def all_checks() -> list[Check]:
    """Return the checks for this machine."""
    trained: list[Check] = [
        (f"a fit on {device} learns, and comes back to the CPU", partial(_learns_on, device))
        for device in devices()[:-1]
    ]
    return [
        ("SGD: the weights of a loop by hand, bit for bit", partial(_loop, _sgd, 1)),
        ("Adam: the weights of a loop by hand, bit for bit", partial(_loop, _adam, 1)),
        ("accumulation: the weights of a loop by hand, bit for bit", partial(_loop, _sgd, 2)),
        ("loss and accuracy are those of all samples at once", _figures),
        ("evaluate gives what the net gives", _evaluates),
        ("predict keeps the order", _predicts),
        ("a run that is resumed ends with the same bits", _resumes),
        ("a damaged checkpoint is found", _finds_damage),
        *trained,
    ]


def _net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def _data() -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(2)
    x = torch.randn(_SAMPLES, 4, generator=own)
    return x, x[:, :3].argmax(1)


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def _model(optimizer: Any = _sgd) -> KerasModel:
    return KerasModel(_net(), nn.CrossEntropyLoss(), {"acc": "acc"}, optimizer)


def _fit(model: KerasModel, **options: Any) -> Any:
    quiet: dict[str, Any] = {"verbose": 0, "plot": False, "cpu": True, "seed": 0}
    return model.fit(_data(), **{**quiet, "epochs": _EPOCHS, "batch_size": _BATCH, **options})


def _loop(optimizer: Any, window: int) -> None:
    """Compare a fit with the loop that everybody writes.

    With windows of several batches, each is trained on as if it were one batch.
    """
    model = _model(optimizer)
    _fit(model, shuffle=False, gradient_accumulation_steps=window)
    net, (x, y) = _net(), _data()
    steps = optimizer(net.parameters())
    for _ in range(_EPOCHS):
        for begin in range(0, _SAMPLES, _BATCH * window):
            steps.zero_grad()
            chosen = torch.arange(begin, min(begin + _BATCH * window, _SAMPLES))
            for part in chosen.split(_BATCH):
                share = len(part) / len(chosen) if window > 1 else 1.0
                (functional.cross_entropy(net(x[part]), y[part]) * share).backward()
            steps.step()
    _compare(model, net)


def _figures() -> None:
    model = _model()
    row = _fit(model, epochs=1, val_data=_data()).iloc[-1]
    with torch.no_grad():
        output, y = model.net(_data()[0]), _data()[1]
    _near("val_loss", row["val_loss"], functional.cross_entropy(output, y))
    _near("val_acc", row["val_acc"], (output.argmax(1) == y).double().mean())


def _evaluates() -> None:
    model = _model()
    model.place(cpu=True)
    found = model.evaluate(_data(), batch_size=7, verbose=0)
    with torch.no_grad():
        output, y = _net()(_data()[0]), _data()[1]
    _near("val_loss", found["val_loss"], functional.cross_entropy(output, y))
    _near("val_acc", found["val_acc"], (output.argmax(1) == y).double().mean())


def _predicts() -> None:
    model = KerasModel(nn.Identity())
    model.place(cpu=True)
    numbers = torch.arange(_SAMPLES, dtype=torch.float32)[:, None]
    found = model.predict(numbers, batch_size=7, verbose=0)
    if not torch.equal(found, numbers):
        message = f"samples 0 to {_SAMPLES - 1} came back as {found.flatten().tolist()}"
        raise CheckFailed(message)


def _resumes() -> None:
    whole, resumed = _model(_adam), _model(_adam)
    with tempfile.TemporaryDirectory() as folder:
        _fit(whole, ckpt_path=f"{folder}/whole")
        _fit(_model(_adam), epochs=1, ckpt_path=f"{folder}/resumed")
        _fit(resumed, ckpt_path=f"{folder}/resumed", resume=True)
    if len(resumed.history) != _EPOCHS:
        message = f"it has {len(resumed.history)} epochs instead of {_EPOCHS}"
        raise CheckFailed(message)
    _compare(resumed, whole.net)


def _finds_damage() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _fit(_model(), epochs=2, ckpt_path=folder)
        newest = Path(list_checkpoints(folder)["path"][0]) / "model.safetensors"
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
        states = list_checkpoints(folder)["state"].tolist()
    if states[0] == "whole" or states[1] != "whole":
        message = f"after one bit of the newest of two checkpoints changed, they are {states}"
        raise CheckFailed(message)


def _learns_on(device: torch.device) -> None:
    model = _model()
    frame = _fit(model, cpu=False, epochs=5)
    losses = frame["train_loss"].tolist()
    where = {parameter.device.type for parameter in model.parameters()}
    if where != {device.type} or not losses[-1] < losses[0]:
        message = f"the net is on {where}, its losses were {losses}"
        raise CheckFailed(message)
    if model.predict(_data()[0], verbose=0).device.type != "cpu":
        message = "predictions stayed on the device"
        raise CheckFailed(message)


def _compare(model: KerasModel, net: nn.Module) -> None:
    for (name, found), true in zip(model.named_parameters(), net.parameters(), strict=True):
        if not torch.equal(found.cpu(), true):
            apart = (found.cpu() - true).abs().max()
            message = f"{name} differs by up to {apart:.3g}"
            raise CheckFailed(message)


def _near(name: str, found: float, true: Tensor) -> None:
    if not abs(found - float(true)) < 1e-6:
        message = f"{name} is {found}, by hand {float(true)}"
        raise CheckFailed(message)


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CheckFailed) else f"{type(error).__name__}: {text}"
