"""An optimizer's state, kept where its parameters are: device, memory format, types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


def align_state(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer's state the memory layout of its parameters.

    Fused optimizers take memory as it comes: with two layouts they give wrong weights.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = _laid_out_as(value, parameter)


def _laid_out_as(value: Tensor, model: Tensor) -> Tensor:
    if value.stride() == model.stride():
        return value
    return torch.empty_like(model, dtype=value.dtype).copy_(value)


def move_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to where its parameters lie, as after a change of device."""
    where = {p: p.device for group in optimizer.param_groups for p in group["params"]}
    moved = any(
        isinstance(value, torch.Tensor) and value.dim() and value.device != where[parameter]
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if parameter in where
    )
    if moved:
        optimizer.load_state_dict(optimizer.state_dict())


def keep_dtypes(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give an optimizer's state the types that were saved: torch casts to those of the weights."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in saved["state"].items():
        own = optimizer.state[parameters[number]]
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dtype != own[name].dtype:
                own[name] = value.to(own[name].device, copy=True)
