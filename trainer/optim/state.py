"""Optimizer state in agreement with the parameters: device, memory format, dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .several import Optimizers


def align_state(optimizer: torch.optim.Optimizer) -> None:
    """Convert an optimizer's state to the memory layout of its parameters.

    Fused optimizers iterate over memory and ignore strides: with different layouts, they compute
    wrong weights.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                # Step counts and factored states have other shapes.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = _laid_out_as(value, parameter)


def _laid_out_as(value: Tensor, model: Tensor) -> Tensor:
    if value.stride() == model.stride():
        return value
    return torch.empty_like(model, dtype=value.dtype).copy_(value)


def move_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to the devices of its parameters, if these changed."""
    devices = {p: p.device for group in optimizer.param_groups for p in group["params"]}
    differs = any(
        # Step counts have no dimension, and stay on the CPU on purpose.
        isinstance(value, torch.Tensor) and value.dim() and value.device != devices[parameter]
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if parameter in devices
    )
    if differs:
        # torch moves a loaded state to the devices of the parameters.
        optimizer.load_state_dict(optimizer.state_dict())


def keep_dtypes(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore the saved dtypes of an optimizer's state, which torch casts to those of the weights.

    The cast would lose bits, for example of float32 state of weights in bfloat16.
    """
    if isinstance(optimizer, Optimizers):
        for name, member in optimizer.members.items():
            keep_dtypes(member, saved[name])
        return
    if type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict:
        return  # it loads a state of its own form, and has not cast it
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in saved["state"].items():
        # The keys of a state dict are positions of the parameters, not the parameters.
        state = optimizer.state[parameters[number]]
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dtype != state[name].dtype:
                # A copy: training changes the state in place, but not what was loaded.
                state[name] = value.to(state[name].device, copy=True)
