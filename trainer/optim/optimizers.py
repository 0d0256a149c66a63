"""Optimizers from what users pass: an instance, a factory or a name; fused if possible."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn, optim

from fitorch.devices.capabilities import has_fused_optimizers

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


def make_optimizer(
    optimizer: OptimizerLike, net: nn.Module, extra: Iterable[nn.Parameter] = ()
) -> optim.Optimizer | None:
    """Return an optimizer, None if there are no parameters to optimize.

    Args:
        optimizer: An instance, which is returned as it is; a factory `params -> Optimizer`; a name
            of torch.optim in lower case, with torch's defaults; or None for `Adam(lr=3e-4)`.
        net: The net whose parameters to optimize.
        extra: Further parameters, those of the loss.

    Raises:
        ValueError: The name is unknown.
        TypeError: `optimizer` is none of these.
    """
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    # Frozen parameters are included: a callback may unfreeze them later.
    parameters = [*net.parameters(), *extra]
    if not parameters:
        return None
    if optimizer is None or isinstance(optimizer, str):
        optimizer_type = optim.Adam if optimizer is None else optimizer_named(optimizer)
        options: dict[str, Any] = {"lr": 3e-4} if optimizer is None else {}
        # The fused variant updates all parameters by one kernel.
        if can_fuse(optimizer_type, net, parameters):
            options["fused"] = True
        return optimizer_type(parameters, **options)
    factory: Any = optimizer
    # Objects that are not callable lead to the error below, which names them.
    result = factory(parameters) if callable(factory) else factory
    if not isinstance(result, optim.Optimizer):
        message = (
            f"optimizer is {optimizer!r}; expected a torch.optim.Optimizer, a function from "
            "parameters to one, a name such as 'adamw', or None"
        )
        raise TypeError(message)
    return result


def can_fuse(
    optimizer_type: type[optim.Optimizer], net: nn.Module, parameters: list[nn.Parameter]
) -> bool:
    """Return whether an optimizer has a fused variant that can update all of `parameters`."""
    if "fused" not in inspect.signature(optimizer_type).parameters or not parameters:
        return False
    if any(getattr(module, "sparse", False) is True for module in net.modules()):
        return False  # fused variants do not support the sparse gradients of embeddings
    return all(
        parameter.is_floating_point()
        and has_fused_optimizers(parameter.device)
        # Lazy parameters get their size with the first batch.
        and not isinstance(parameter, nn.parameter.UninitializedParameter)
        for parameter in parameters
    )


def settle_fused(optimizer: optim.Optimizer) -> None:
    """Let an optimizer update parameters one by one if their device has no fused kernels.

    An optimizer is built before its net is placed: on the CPU, which has them.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and not all(has_fused_optimizers(p.device) for p in group["params"]):
            group["fused"] = False


def make_scheduler(scheduler: Any, optimizer: optim.Optimizer) -> Any:
    """Return a learning rate scheduler, or None.

    Args:
        scheduler: An instance, a factory `optimizer -> scheduler`, or None.
        optimizer: The optimizer whose rates the scheduler sets.

    Raises:
        ValueError: The instance was built for a different optimizer.
        TypeError: `scheduler` is none of these.
    """
    if scheduler is None:
        return None
    if not hasattr(scheduler, "step") or isinstance(scheduler, type):
        result = scheduler(optimizer) if callable(scheduler) else None
        if not hasattr(result, "step"):
            message = (
                f"lr_scheduler is {scheduler!r}; expected a scheduler of torch.optim.lr_scheduler, "
                "a function from an optimizer to one, or None"
            )
            raise TypeError(message)
        return result
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        message = (
            f"{type(scheduler).__name__} was built for a different optimizer; pass that optimizer "
            "too, or a function: lr_scheduler=lambda optimizer: StepLR(optimizer, 10)"
        )
        raise ValueError(message)
    return scheduler


def optimizer_named(name: str) -> type[optim.Optimizer]:
    """Return the optimizer class of a name, such as "adamw".

    Raises:
        ValueError: The name is unknown.
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    close = difflib.get_close_matches(name.lower(), OPTIMIZERS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown optimizer {name!r}{hint}; expected one of {', '.join(OPTIMIZERS)}"
    raise ValueError(message)
