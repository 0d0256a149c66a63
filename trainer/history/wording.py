"""Objects in words, for reports: an optimizer with its rates, a value on one line."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

LONGEST = 600  # characters of a setting

_HOW = ("foreach", "fused", "capturable", "differentiable", "maximize")  # speed, mostly


def optimizer_of(optimizer: Optimizer) -> str:
    """Write an optimizer: its learning rates, and what is not as its class has it.

    Example:
        >>> import torch
        >>> optimizer_of(torch.optim.SGD([torch.zeros(1)], 0.1, momentum=0.9, fused=True))
        'SGD(lr=0.1, momentum=0.9)'
    """
    parameters = inspect.signature(type(optimizer)).parameters
    groups = optimizer.param_groups
    told = []
    for name in dict.fromkeys(["lr", *parameters]):
        values = [_plain(group[name]) for group in groups if name in group]
        plain = all(_is_plain(value) for value in values)
        if not values or not plain or name in _HOW:
            continue
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        apart = list(dict.fromkeys(values))
        if name == "lr" or apart != [default]:
            told.append(f"{name}={apart[0]!r}" if len(apart) == 1 else f"{name}={values!r}")
    return f"{type(optimizer).__name__}({', '.join(told)})"[:LONGEST]


def written(value: Any) -> str:
    """Write a value on one line, whatever its class makes of that."""
    try:
        return " ".join(repr(value).split())[:LONGEST]
    except Exception:  # somebody's own class
        return type(value).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, list):  # what was a tuple before it was in a checkpoint
        return tuple(value)
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def sized(net: nn.Module) -> list[Any]:
    """Return the parameters of a net, without lazy ones that have no size yet."""
    parameters: list[Any] = [*net.parameters()]
    return [p for p in parameters if not is_lazy(p)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
