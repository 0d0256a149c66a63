"""Build nets, optimizers and targets from the parameters of an estimator."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fitorch.errors import DataError
from fitorch.inspection.dry_run import undisturbed
from fitorch.inspection.example_inputs import features_from_data
from fitorch.metrics.task import PredictionKind
from fitorch.nets.calls import choose_call
from fitorch.nets.state import check_module
from fitorch.optim.optimizers import can_fuse, optimizer_named
from fitorch.randomness import seed_everything, undisturbed_randomness
from fitorch.tree import describe

PREFIXES = ("net__", "optimizer__", "fit__")


def prefixed(parameters: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the parameters whose names begin with `prefix`, without the prefix."""
    return {
        name.removeprefix(prefix): value
        for name, value in parameters.items()
        if name.startswith(prefix)
    }


def check_prefixes(parameters: Mapping[str, Any], kind: str) -> None:
    """Raise an error for parameters without a known prefix.

    Raises:
        TypeError: There is such a parameter; the message lists the prefixes.
    """
    unknown = next((name for name in parameters if not name.startswith(PREFIXES)), None)
    if unknown is not None:
        message = (
            f"{kind} got an unexpected argument {unknown!r}; arguments for the net begin with "
            "net__, those for the optimizer with optimizer__, and other arguments of fit with fit__"
        )
        raise TypeError(message)


def make_net(net: Any, sizes: Mapping[str, int], options: Mapping[str, Any]) -> nn.Module:
    """Return a new net.

    Args:
        net: A function or class, called with `options` and with those of `sizes` that are among its
            parameters; or a module, which is copied.
        sizes: The sizes of the data by name: `n_features`, `n_outputs`.
        options: The user's arguments.

    Raises:
        TypeError: The function does not return a module, or there are options for a module.
    """
    if isinstance(net, nn.Module):
        if options:
            message = (
                f"net is a {type(net).__name__} that is built already, so net__"
                f"{next(iter(options))} has no effect; pass the class, or a function"
            )
            raise TypeError(message)
        # Each fit starts with the weights that the user passed.
        return copy.deepcopy(net)
    if not callable(net):
        message = f"net is {net!r}; expected a function or class that returns a net, or a module"
        raise TypeError(message)
    accepted = inspect.signature(net).parameters
    # A net with fixed sizes has no such parameters.
    sizes = {name: size for name, size in sizes.items() if name in accepted}
    module: Any = net(**{**sizes, **options})
    check_module(module)
    return module  # type: ignore[no-any-return]


def optimizer_for(net: nn.Module, optimizer: Any, options: Mapping[str, Any]) -> Any:
    """Return an optimizer in a form that `KerasModel` takes.

    Args:
        net: The net.
        optimizer: A name or a class of torch.optim, a function `params -> Optimizer`, or None.
        options: Other arguments of it, as `lr`.

    Raises:
        TypeError: It is an instance, whose parameters are those of another net.
        ValueError: The name is unknown.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        message = (
            f"optimizer is a {type(optimizer).__name__}, but each fit needs one for its new net; "
            "pass a name with optimizer__lr=0.01, or a function params -> Optimizer"
        )
        raise TypeError(message)
    if not options:
        return optimizer
    if optimizer is None:
        optimizer, options = "adam", {"lr": 3e-4, **options}
    kind: Any = optimizer_named(optimizer) if isinstance(optimizer, str) else optimizer

    def build(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        fused = isinstance(kind, type) and can_fuse(kind, net, parameters)
        # The user's options take precedence.
        built: torch.optim.Optimizer = kind(
            parameters, **{"fused": True} | dict(options) if fused else options
        )
        return built

    return build


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed the global generators within the block, and restore them at its end.

    Args:
        seed: The seed; None draws from the global generators.
    """
    if seed is None:
        yield
        return
    # The fit leaves the global generators as they were.
    with undisturbed_randomness():
        seed_everything(seed)
        yield


def output_shape(net: nn.Module, rows: np.ndarray) -> tuple[int, ...]:
    """Return the shape of a net's output for a sample, () or (C,); the net does not change.

    Raises:
        DataError: The output has another form.
    """
    # Buffers and random numbers are those of a net that was not called.
    with undisturbed(net), torch.no_grad():
        features = features_from_data(net, rows)
        output = choose_call(net, features)(features)
    if not isinstance(output, Tensor) or output.dim() not in (1, 2) or len(output) != len(rows):
        message = (
            f"{type(net).__name__} returns {describe(output)} for {len(rows)} samples; an "
            "estimator needs a tensor of shape (N,) or (N, C)"
        )
        raise DataError(message)
    return tuple(output.shape[1:])


def class_targets(shape: tuple[int, ...], codes: np.ndarray, classes: int) -> np.ndarray:
    """Return the targets of classes in the form that matches the net's outputs.

    Args:
        shape: The shape of the net's output for a sample: () or (C,).
        codes: The class index of each sample, (N,).
        classes: The number of classes.

    Returns:
        Class indices (N,) for outputs (N, C); for one logit of two classes 0.0 and 1.0, in the
        shape of the outputs.

    Raises:
        DataError: The numbers of outputs and classes differ.
    """
    width = shape[0] if shape else 1
    if width == 1 and classes == 2:
        # The targets have the shape of the outputs, because the binary loss compares elements.
        return codes.reshape(-1, *shape).astype(np.float64)
    if width != classes:
        allowed = "2, or 1 logit" if classes == 2 else f"{classes}"
        message = (
            f"the net returns {width} outputs for {classes} classes, expected {allowed}; add a "
            "parameter n_outputs to its function, and use it for the last layer"
        )
        raise DataError(message)
    return codes.astype(np.int64)


def number_targets(shape: tuple[int, ...], y: np.ndarray) -> np.ndarray:
    """Return the targets of a regression in the shape of the net's outputs.

    Args:
        shape: The shape of the net's output for a sample: () or (C,).
        y: The targets, (N,) or (N, C).

    Raises:
        DataError: The numbers of outputs and targets differ.
    """
    wide = y.reshape(len(y), -1)
    width = shape[0] if shape else 1
    if width != wide.shape[1]:
        message = (
            f"the net returns {width} outputs for {wide.shape[1]} targets; add a parameter "
            "n_outputs to its function, and use it for the last layer"
        )
        raise DataError(message)
    return wide.reshape(-1, *shape)


def probabilities(logits: Tensor, prediction_kind: PredictionKind) -> Tensor:
    """Return the probability of each class as float64, (N, C).

    Args:
        logits: The net's outputs, (N,) or (N, C).
        prediction_kind: The form of outputs that the loss expects; if it is not known, logits.
    """
    # In float64, probabilities of large logits stay apart, and rows sum to 1 more closely.
    wide = logits.reshape(len(logits), -1).double()
    if prediction_kind == "probabilities":
        return torch.cat([1 - wide, wide], 1) if wide.shape[1] == 1 else wide
    return torch.cat([-wide, wide], 1).sigmoid() if wide.shape[1] == 1 else wide.softmax(1)


def decisions(logits: Tensor, prediction_kind: PredictionKind) -> Tensor:
    """Return the score of each class as float64: its logit, or the logarithm of its probability.

    Args:
        logits: The net's outputs, (N,) or (N, C).
        prediction_kind: The form of outputs that the loss expects.

    Returns:
        (N, C); for two classes (N,), the score of the second minus that of the first.
    """
    wide = logits.reshape(len(logits), -1).double()
    if prediction_kind == "probabilities":
        wide = wide.logit() if wide.shape[1] == 1 else wide.log()
    if wide.shape[1] == 2:
        # For two classes only the difference decides.
        wide = wide[:, 1:] - wide[:, :1]
    return wide[:, 0] if wide.shape[1] == 1 else wide


def label_probabilities(outputs: Tensor, prediction_kind: PredictionKind) -> Tensor:
    """Return the probability of each of several labels as float64, (N, C)."""
    wide = outputs.double()
    return wide if prediction_kind == "probabilities" else wide.sigmoid()


def label_decisions(outputs: Tensor, prediction_kind: PredictionKind) -> Tensor:
    """Return the logit of each of several labels as float64, (N, C)."""
    wide = outputs.double()
    return wide.logit() if prediction_kind == "probabilities" else wide
