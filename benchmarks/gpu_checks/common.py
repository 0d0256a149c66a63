"""What the checks share: their list, data, nets, and fits without output."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from fitorch import KerasModel
from fitorch.devices.accelerators import accelerator_type


class Finding(NamedTuple):
    """What a check has found.

    Attributes:
        right: Whether it is right; None if the check does not apply here.
        text: The figures.
    """

    right: bool | None
    text: str


class Check(NamedTuple):
    """A check: its name, what it calls, and whether it needs an accelerator."""

    name: str
    run: Callable[[], Finding]
    needs_gpu: bool


CHECKS: list[Check] = []

_CPU_ALONE = "FITORCH_CHECK_ON_CPU"  # set by --device cpu, for child processes as well


def check(*, gpu: bool = False) -> Callable[[Callable[[], Finding]], Callable[[], Finding]]:
    """Return a decorator that adds a function to the checks."""

    def add(function: Callable[[], Finding]) -> Callable[[], Finding]:
        CHECKS.append(Check(function.__name__.replace("_", " "), function, gpu))
        return function

    return add


def use_cpu() -> None:
    """Run the checks on the CPU, as far as they make sense there."""
    os.environ[_CPU_ALONE] = "1"


def device() -> str:
    """Return the type of the device that is checked."""
    return (None if os.environ.get(_CPU_ALONE) else accelerator_type()) or "cpu"


def on_cuda() -> bool:
    """Return whether a CUDA device is checked; some tools of torch exist there alone."""
    return device() == "cuda"


def synchronize() -> None:
    """Wait until the device has done everything."""
    if device() != "cpu":
        torch.accelerator.synchronize()


def features(n: int = 512, classes: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (n, 20) and binary targets (n, 1), or class numbers (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 20, generator=generator)
    y = x[:, :classes].argmax(1) if classes else (x[:, :1] + x[:, 1:2] > 0).float()
    return x, y


def mlp(outputs: int = 1, dropout: float = 0.0, norm: bool = True, width: int = 64) -> nn.Module:
    """Return a perceptron of 20 features."""
    torch.manual_seed(0)
    parts = [nn.Linear(20, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*parts, nn.Dropout(dropout), nn.Linear(width, outputs))


def model(
    net: nn.Module | None = None,
    loss: Any = "bce_with_logits",
    metrics: Any = None,
    optimizer: Any = "adam",
    **settings: Any,
) -> KerasModel:
    """Return a model of a new perceptron, or of `net`."""
    return KerasModel(mlp() if net is None else net, loss, metrics, optimizer, **settings)


def fit(model: KerasModel, data: Any, val: Any = None, **options: Any) -> dict[str, list[float]]:
    """Train without output; return the columns of the history but its clock."""
    defaults = {"epochs": 2, "batch_size": 32, "verbose": 0, "seed": 1, "num_workers": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = model.fit(data, val, **{**defaults, "cpu": device() == "cpu", **options})
    return {
        name: [float(v) for v in frame[name]] for name in frame if name not in ("epoch", "seconds")
    }


def weights(model: KerasModel) -> torch.Tensor:
    """Return all weights and buffers as one vector on the CPU."""
    state = model.net.state_dict().values()
    return torch.cat([value.detach().cpu().double().flatten() for value in state])


def apart(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """Return the largest difference of two histories."""
    return max((abs(p - q) for k in a for p, q in zip(a[k], b[k], strict=True)), default=0.0)


class Samples(Dataset[Any]):
    """Samples read one by one; `bad` is one with a class that the net has no output for."""

    def __init__(
        self, n: int = 512, where: str = "cpu", classes: int = 0, bad: int | None = None
    ) -> None:
        self.x, self.y = (tensor.to(where) for tensor in features(n, classes))
        if bad is not None:
            self.y[bad] = 1000

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def child(code: str, *, fails: bool = False) -> str:
    """Run code in a process of its own; return what it printed, or its errors if it fails."""
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, sys.path)])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "child.py")
        script.write_text(code)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script)],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
        )
    if done.returncode and not fails:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
    return done.stderr if fails else done.stdout
