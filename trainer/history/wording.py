"""Descriptions of objects for reports: optimizers with their settings, values on one line."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fitorch.optim.several import Optimizers

LONGEST = 600  # characters of a setting

_NOT_SHOWN = ("foreach", "fused", "capturable", "differentiable", "maximize")


def optimizer_of(optimizer: Optimizer) -> str:
    """Return an optimizer's class, its learning rates, and settings that are not the defaults.

    Example:
        >>> import torch
        >>> optimizer_of(torch.optim.SGD([torch.zeros(1)], 0.1, momentum=0.9, fused=True))
        'SGD(lr=0.1, momentum=0.9)'
    """
    if isinstance(optimizer, Optimizers):
        return " + ".join(map(optimizer_of, optimizer.members.values()))[:LONGEST]
    parameters = inspect.signature(type(optimizer)).parameters
    groups = optimizer.param_groups
    settings = []
    # The learning rate comes first; the rest has the order of the constructor.
    for name in dict.fromkeys(["lr", *parameters]):
        values = [_plain(group[name]) for group in groups if name in group]
        plain = all(_is_plain(value) for value in values)
        if not values or not plain or name in _NOT_SHOWN:
            continue
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        distinct = list(dict.fromkeys(values))
        if name == "lr" or distinct != [default]:
            value = distinct[0] if len(distinct) == 1 else values
            settings.append(f"{name}={value!r}")
    return f"{type(optimizer).__name__}({', '.join(settings)})"[:LONGEST]


def written(value: object) -> str:
    """Return the `repr` of a value on one line, or its class if `repr` fails."""
    try:
        return " ".join(repr(value).split())[:LONGEST]
    except Exception:  # a user's class with a broken __repr__
        return type(value).__name__


def _plain(value: object) -> object:
    if isinstance(value, list):  # a checkpoint may store a tuple so
        return tuple(value)
    # For a tensor on a device this waits.
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def sized(net: nn.Module) -> list[Any]:
    """Return the parameters of a net, except lazy ones, which have no size yet."""
    parameters: list[Any] = [*net.parameters()]
    return [p for p in parameters if not is_lazy(p)]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
