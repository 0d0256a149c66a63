"""What scenarios train, and how their figures are compared."""

import math

import torch
from torch import nn

from fitorch import KerasModel

DEVICE, OTHER = "far:0", "far:1"
SAMPLES, BATCH = 28, 8  # the last batch has 4 samples

X = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))
VALUES = X[:, :1] - 0.5 * X[:, 1:2]
BINARY = (VALUES > 0).float()
CLASSES = X[:, :3].argmax(1)
LABELS = (X[:, :3] > 0).float()


def linear(outputs=1):
    return nn.Linear(4, outputs)


def mlp(outputs=1, dropout=0.0):
    """Return a net with a batch norm, and with dropout if asked for."""
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, outputs)
    )


def model_of(device, net=linear, loss="mse", metrics=None, optimizer="adam", **options):
    """Return a model whose net is made with a seed."""
    torch.manual_seed(0)
    return KerasModel(net(), loss, metrics, optimizer, device=device, **options)


def train(model, data=(X, VALUES), val_data=None, **options):
    """Train silently; return the model's figures."""
    asked = {"epochs": 2, "batch_size": BATCH, "seed": 3, "verbose": 0, "num_workers": 0}
    model.fit(data, val_data, **{**asked, **options})
    return figures(model)


def figures(model):
    """Return the history and the weights of a model."""
    frame = model.history.frame.drop(columns="seconds")
    return {"history": frame.to_dict("list"), "weights": state(model.net)}


def state(net):
    return {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}


def check_same(actual, expected, rtol=1e-6, atol=1e-7, where=""):
    """Check that nested numbers and tensors are the same; `rtol=0, atol=0` for bits."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), f"{where}: {list(actual)}, not {list(expected)}"
        for key, value in expected.items():
            check_same(actual[key], value, rtol, atol, f"{where}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), f"{where}: {actual}, not {expected}"
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            check_same(one, other, rtol, atol, f"{where}[{number}]")
    elif isinstance(expected, torch.Tensor):
        assert actual.device.type == "cpu", where
        torch.testing.assert_close(
            actual, expected, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m: f"{where}: {m}"
        )
    elif isinstance(expected, float) and not math.isnan(expected):
        close = math.isclose(actual, expected, rel_tol=rtol, abs_tol=atol)
        assert close or actual == expected, f"{where}: {actual}, not {expected}"
    elif not isinstance(expected, float):
        assert actual == expected, f"{where}: {actual}, not {expected}"


def check_as_on_the_cpu(figures_on, rtol=1e-6, device=DEVICE):
    """Check that `figures_on(device)` is what it is on the CPU; return it."""
    actual = figures_on(device)
    check_same(actual, figures_on("cpu"), rtol, atol=rtol / 10)
    return actual


def message_of(error):
    return " ".join([str(error.value), *getattr(error.value, "__notes__", ())])
