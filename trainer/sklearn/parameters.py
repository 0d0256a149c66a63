"""From the parameters of a scikit-learn estimator to a net and what trains it."""

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
from fitorch.nets.forward import choose_call
from fitorch.nets.state import check_module
from fitorch.optim.optimizers import can_fuse, optimizer_named
from fitorch.randomness import seed_everything, undisturbed_randomness
from fitorch.tree import describe

PREFIXES = ("net__", "optimizer__", "fit__")


def prefixed(parameters: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the parameters that begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in parameters.items()
        if name.startswith(prefix)
    }


def check_prefixes(parameters: Mapping[str, Any], kind: str) -> None:
    """Refuse parameters that are for nobody.

    Raises:
        TypeError: There is one; it tells the prefixes.
    """
    odd = next((name for name in parameters if not name.startswith(PREFIXES)), None)
    if odd is not None:
        message = (
            f"{kind} got an unexpected argument {odd!r}; what is for the net begins with net__, "
            "for the optimizer with optimizer__, and what else fit takes with fit__"
        )
        raise TypeError(message)


def make_net(net: Any, sizes: Mapping[str, int], options: Mapping[str, Any]) -> nn.Module:
    """Return a new net.

    Args:
        net: A function or class, called with `options` and those of `sizes` that it has parameters
            for; or a module, which is copied.
        sizes: What the data says, by name: `n_features`, `n_outputs`.
        options: What the user chose.

    Raises:
        TypeError: It gives no module, or a module is to be given options.
    """
    if isinstance(net, nn.Module):
        if options:
            message = (
                f"net is a {type(net).__name__} that is built already, which net__"
                f"{next(iter(options))} can't change; pass the class, or a function"
            )
            raise TypeError(message)
        return copy.deepcopy(net)
    if not callable(net):
        message = f"net is {net!r}; expected a function or class that gives a net, or a module"
        raise TypeError(message)
    known = inspect.signature(net).parameters
    wanted = {name: size for name, size in sizes.items() if name in known}
    made: Any = net(**{**wanted, **options})
    check_module(made)
    return made  # type: ignore[no-any-return]


def optimizer_for(net: nn.Module, optimizer: Any, options: Mapping[str, Any]) -> Any:
    """Return what `KerasModel` takes as an optimizer.

    Args:
        net: The net.
        optimizer: A name or a class of torch.optim, a function `params -> Optimizer`, or None.
        options: What else to call it with, as `lr`.

    Raises:
        TypeError: It is an instance, which has the parameters of another net.
        ValueError: The name is unknown.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        message = (
            f"optimizer is a {type(optimizer).__name__}, which has the parameters of another net "
            "than a fit will make; pass a name with optimizer__lr=0.01, or a function "
            "params -> Optimizer"
        )
        raise TypeError(message)
    if not options:
        return optimizer
    if optimizer is None:
        optimizer, options = "adam", {"lr": 3e-4, **options}
    kind: Any = optimizer_named(optimizer) if isinstance(optimizer, str) else optimizer

    def build(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        fused = isinstance(kind, type) and can_fuse(kind, net, parameters)
        made: torch.optim.Optimizer = kind(
            parameters, **{"fused": True} | dict(options) if fused else options
        )
        return made

    return build


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Let all that is drawn within follow from a seed, and the global generators stay as they are.

    Args:
        seed: The seed; None draws from the global generators.
    """
    if seed is None:
        yield
        return
    with undisturbed_randomness():
        seed_everything(seed)
        yield


def output_shape(net: nn.Module, rows: np.ndarray) -> tuple[int, ...]:
    """Return the shape that a net gives for a sample, () or (C,); it stays as it was.

    Raises:
        DataError: It gives something else.
    """
    with undisturbed(net), torch.no_grad():
        features = features_from_data(net, rows)
        output = choose_call(net, features)(features)
    if not isinstance(output, Tensor) or output.dim() not in (1, 2) or len(output) != len(rows):
        message = (
            f"{type(net).__name__} gives {describe(output)} for {len(rows)} samples; an estimator "
            "needs a tensor of shape (N,) or (N, C)"
        )
        raise DataError(message)
    return tuple(output.shape[1:])


def class_targets(shape: tuple[int, ...], codes: np.ndarray, classes: int) -> np.ndarray:
    """Return the targets of classes in the form that goes with the net's outputs.

    Args:
        shape: What the net gives for a sample: () or (C,).
        codes: The number of each sample's class, (N,).
        classes: How many there are.

    Returns:
        Class numbers (N,) for outputs (N, C); for one logit of two classes 0.0 and 1.0, in the
        outputs' shape.

    Raises:
        DataError: There are not as many outputs as classes.
    """
    width = shape[0] if shape else 1
    if width == 1 and classes == 2:
        return codes.reshape(-1, *shape).astype(np.float64)
    if width != classes:
        allowed = "2, or 1 logit" if classes == 2 else f"{classes}"
        message = (
            f"the net gives {width} outputs for {classes} classes; expected {allowed}: give its "
            "factory a parameter n_outputs, and the last layer as many"
        )
        raise DataError(message)
    return codes.astype(np.int64)


def number_targets(shape: tuple[int, ...], y: np.ndarray) -> np.ndarray:
    """Return the targets of a regression in the shape of the net's outputs.

    Args:
        shape: What the net gives for a sample: () or (C,).
        y: The targets, (N,) or (N, C).

    Raises:
        DataError: There are not as many outputs as targets.
    """
    wide = y.reshape(len(y), -1)
    width = shape[0] if shape else 1
    if width != wide.shape[1]:
        message = (
            f"the net gives {width} outputs for {wide.shape[1]} targets; give its factory a "
            "parameter n_outputs, and the last layer as many"
        )
        raise DataError(message)
    return wide.reshape(-1, *shape)


def probabilities(logits: Tensor, scale: PredictionKind) -> Tensor:
    """Return the probability of each class in 64 bits, (N, C).

    Args:
        logits: What the net gives, (N,) or (N, C).
        scale: What the loss takes that for; what it does not tell passes for logits.
    """
    wide = logits.reshape(len(logits), -1).double()
    if scale == "probabilities":
        return torch.cat([1 - wide, wide], 1) if wide.shape[1] == 1 else wide
    return torch.cat([-wide, wide], 1).sigmoid() if wide.shape[1] == 1 else wide.softmax(1)


def decisions(logits: Tensor, scale: PredictionKind) -> Tensor:
    """Return the score of each class in 64 bits: its logit, or the logarithm of its probability.

    Args:
        logits: What the net gives, (N,) or (N, C).
        scale: What the loss takes that for.

    Returns:
        (N, C); of two classes (N,), how much more the second one has than the first.
    """
    wide = logits.reshape(len(logits), -1).double()
    if scale == "probabilities":
        wide = wide.logit() if wide.shape[1] == 1 else wide.log()
    if wide.shape[1] == 2:
        wide = wide[:, 1:] - wide[:, :1]
    return wide[:, 0] if wide.shape[1] == 1 else wide
