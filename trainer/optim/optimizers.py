"""Optimizers from what users pass: an instance, a factory or a name; fused where that is right."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn, optim

OptimizerLike = optim.Optimizer | Callable[[list[nn.Parameter]], optim.Optimizer] | str | None

OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "adadelta": optim.Adadelta,
    "adagrad": optim.Adagrad,
    "adam": optim.Adam,
    "adamax": optim.Adamax,
    "adamw": optim.AdamW,
    "asgd": optim.ASGD,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "rmsprop": optim.RMSprop,
    "rprop": optim.Rprop,
    "sgd": optim.SGD,
}

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(
    optimizer: OptimizerLike, net: nn.Module, extra: Iterable[nn.Parameter] = ()
) -> optim.Optimizer | None:
    """Return the optimizer that a user means, None where there is no parameter to optimize.

    Args:
        optimizer: An instance, which is left as it is; a factory `params -> Optimizer`; a name of
            torch.optim in lower case, with torch's defaults; or None for `Adam(lr=3e-4)`.
        net: The net whose parameters to optimize.
        extra: More parameters, those of the loss.

    Raises:
        ValueError: The name is unknown.
        TypeError: `optimizer` is none of these.
    """
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    parameters = [*net.parameters(), *extra]
    if not parameters:
        return None
    if optimizer is None or isinstance(optimizer, str):
        kind = optim.Adam if optimizer is None else kind_named(optimizer)
        options: dict[str, Any] = {"lr": 3e-4} if optimizer is None else {}
        if can_fuse(kind, net, parameters):
            options["fused"] = True
        return kind(parameters, **options)
    given: Any = optimizer
    made = given(parameters) if callable(given) else given
    if not isinstance(made, optim.Optimizer):
        message = (
            f"optimizer is {optimizer!r}; expected a torch.optim.Optimizer, a function from "
            "parameters to one, a name such as 'adamw', or None"
        )
        raise TypeError(message)
    return made


def can_fuse(kind: type[optim.Optimizer], net: nn.Module, parameters: list[nn.Parameter]) -> bool:
    """Say whether `kind` has a fused variant that can update all of `parameters`."""
    if "fused" not in inspect.signature(kind).parameters or not parameters:
        return False
    if any(getattr(module, "sparse", False) is True for module in net.modules()):
        return False  # embeddings with sparse gradients
    return all(
        parameter.is_floating_point()
        and parameter.device.type in _FUSED_DEVICES
        and not isinstance(parameter, nn.parameter.UninitializedParameter)
        for parameter in parameters
    )


def make_scheduler(scheduler: Any, optimizer: optim.Optimizer) -> Any:
    """Return the learning-rate schedule that a user means.

    Args:
        scheduler: An instance, a factory `optimizer -> scheduler`, or None.
        optimizer: Whose rates it sets.

    Raises:
        ValueError: The instance was built for another optimizer.
        TypeError: `scheduler` is none of these.
    """
    if scheduler is None:
        return None
    if not hasattr(scheduler, "step") or isinstance(scheduler, type):
        made = scheduler(optimizer) if callable(scheduler) else None
        if not hasattr(made, "step"):
            message = (
                f"lr_scheduler is {scheduler!r}; expected a scheduler of torch.optim.lr_scheduler, "
                "a function from an optimizer to one, or None"
            )
            raise TypeError(message)
        return made
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        message = (
            f"{type(scheduler).__name__} was built for another optimizer than the one passed; pass "
            "both, or a function: lr_scheduler=lambda optimizer: StepLR(optimizer, 10)"
        )
        raise ValueError(message)
    return scheduler


def kind_named(name: str) -> type[optim.Optimizer]:
    """Return the optimizer of a name, as "adamw".

    Raises:
        ValueError: The name is unknown.
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    close = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown optimizer {name!r}{hint}; expected one of {', '.join(OPTIMIZERS)}"
    raise ValueError(message)
