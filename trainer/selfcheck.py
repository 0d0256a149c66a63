"""Checks of this installation: short fits, compared with hand-written training loops."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from fitorch.checkpoint.listing import list_checkpoints
from fitorch.devices.accelerators import HOST

from .environment import devices
from .model import KerasModel
from .randomness import undisturbed_randomness

if TYPE_CHECKING:
    import pandas as pd

_OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

_SAMPLES, _BATCH, _EPOCHS = 50, 16, 3  # the last batch is shorter


class CheckFailed(Exception):
    """A check failed; the message describes the difference."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a check.

    Args:
        name: The property that was checked.
        error: The reason if the check failed, otherwise "".
        seconds: The duration.
    """

    name: str
    error: str
    seconds: float


Check = tuple[str, Callable[[], None]]


def outcomes(checks: Sequence[Check] | None = None) -> Iterator[Outcome]:
    """Run checks one by one; the global random generators do not change.

    Args:
        checks: Names, and functions that raise an error if the check fails; None for all checks.
    """
    for name, check in all_checks() if checks is None else checks:
        start, error = time.perf_counter(), ""
        try:
            with undisturbed_randomness():
                torch.manual_seed(0)
                check()
        except Exception as failure:
            error = _reason(failure)
        yield Outcome(name, error, time.perf_counter() - start)


def all_checks() -> list[Check]:
    """Return the checks that this machine supports."""
    trained: list[Check] = [
        (
            f"a fit on {device} learns, and returns predictions on the CPU",
            partial(_learns_on, device),
        )
        for device in devices()[:-1]
    ]
    return [
        ("SGD: same weights as a hand-written loop, bit for bit", partial(_trains, _sgd, 1)),
        ("Adam: same weights as a hand-written loop, bit for bit", partial(_trains, _adam, 1)),
        ("accumulation: same weights as a hand-written loop", partial(_trains, _sgd, 2)),
        ("loss and accuracy equal those of all samples at once", _measures),
        ("evaluate() equals the loss and accuracy of the net's outputs", _evaluates),
        ("predict() keeps the order of samples", _predicts),
        ("a resumed run ends with the same bits", _resumes),
        ("a damaged checkpoint is detected", _detects_damage),
        *trained,
    ]


def _net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator(HOST).manual_seed(2)
    x = torch.randn(_SAMPLES, 4, generator=generator, device=HOST)
    return x, x[:, :3].argmax(1)


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def _adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def _model(optimizer: _OptimizerFactory = _sgd) -> KerasModel:
    return KerasModel(_net(), nn.CrossEntropyLoss(), {"acc": "acc"}, optimizer)


def _fit(model: KerasModel, **options: Any) -> pd.DataFrame:
    quiet: dict[str, Any] = {"verbose": 0, "plot": False, "cpu": True, "seed": 0}
    return model.fit(_data(), **{**quiet, "epochs": _EPOCHS, "batch_size": _BATCH, **options})


def _trains(optimizer: _OptimizerFactory, window: int) -> None:
    """Compare a fit with a hand-written loop.

    A window of several batches has the gradient of one large batch.
    """
    model = _model(optimizer)
    _fit(model, shuffle=False, gradient_accumulation_steps=window)
    net, (x, y) = _net(), _data()
    steps = optimizer(net.parameters())
    for _ in range(_EPOCHS):
        for start in range(0, _SAMPLES, _BATCH * window):
            steps.zero_grad()
            indices = torch.arange(start, min(start + _BATCH * window, _SAMPLES))
            for batch in indices.split(_BATCH):
                fraction = len(batch) / len(indices) if window > 1 else 1.0
                (functional.cross_entropy(net(x[batch]), y[batch]) * fraction).backward()
            steps.step()
    _compare_weights(model, net)


def _measures() -> None:
    model = _model()
    row = _fit(model, epochs=1, val_data=_data()).iloc[-1]
    with torch.no_grad():
        output, y = model.net(_data()[0]), _data()[1]
    _near("val_loss", row["val_loss"], functional.cross_entropy(output, y))
    _near("val_acc", row["val_acc"], (output.argmax(1) == y).double().mean())


def _evaluates() -> None:
    model = _model()
    model.place(cpu=True)
    values = model.evaluate(_data(), batch_size=7, verbose=0)
    with torch.no_grad():
        output, y = _net()(_data()[0]), _data()[1]
    _near("val_loss", values["val_loss"], functional.cross_entropy(output, y))
    _near("val_acc", values["val_acc"], (output.argmax(1) == y).double().mean())


def _predicts() -> None:
    model = KerasModel(nn.Identity())
    model.place(cpu=True)
    numbers = torch.arange(_SAMPLES, dtype=torch.float32)[:, None]
    predictions = model.predict(numbers, batch_size=7, verbose=0)
    if not torch.equal(predictions, numbers):
        message = f"samples 0 to {_SAMPLES - 1} were returned as {predictions.flatten().tolist()}"
        raise CheckFailed(message)


def _resumes() -> None:
    uninterrupted, resumed = _model(_adam), _model(_adam)
    with tempfile.TemporaryDirectory() as folder:
        _fit(uninterrupted, ckpt_path=f"{folder}/uninterrupted")
        _fit(_model(_adam), epochs=1, ckpt_path=f"{folder}/resumed")
        _fit(resumed, ckpt_path=f"{folder}/resumed", resume=True)
    if len(resumed.history) != _EPOCHS:
        message = f"the resumed run has {len(resumed.history)} epochs instead of {_EPOCHS}"
        raise CheckFailed(message)
    _compare_weights(resumed, uninterrupted.net)


def _detects_damage() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _fit(_model(), epochs=2, ckpt_path=folder)
        newest = Path(list_checkpoints(folder)["path"][0]) / "model.safetensors"
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
        states = list_checkpoints(folder)["state"].tolist()
    if states[0] == "whole" or states[1] != "whole":
        message = f"after a bit of the newer of two checkpoints changed, their states are {states}"
        raise CheckFailed(message)


def _learns_on(device: torch.device) -> None:
    model = _model()
    frame = _fit(model, cpu=False, epochs=5)
    losses = frame["train_loss"].tolist()
    device_types = {parameter.device.type for parameter in model.parameters()}
    if device_types != {device.type} or not losses[-1] < losses[0]:
        message = f"the net is on {device_types}, its losses were {losses}"
        raise CheckFailed(message)
    if model.predict(_data()[0], verbose=0).device != HOST:
        message = "predictions stayed on the device"
        raise CheckFailed(message)


def _compare_weights(model: KerasModel, net: nn.Module) -> None:
    for (name, actual), expected in zip(model.named_parameters(), net.parameters(), strict=True):
        if not torch.equal(actual.cpu(), expected):
            difference = (actual.cpu() - expected).abs().max()
            message = f"{name} differs by up to {difference:.3g}"
            raise CheckFailed(message)


def _near(name: str, actual: float, expected: Tensor) -> None:
    if not abs(actual - float(expected)) < 1e-6:
        message = f"{name} is {actual}, expected {float(expected)}"
        raise CheckFailed(message)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CheckFailed) else f"{type(error).__name__}: {text}"
