"""Modules on their way to another device."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from fitorch.internals.torch import keeps_parameters


def moves_in_place(module: nn.Module, device: torch.device) -> bool:
    """Return whether `module.to(device)` changes its parameters in place."""
    parameters = list(module.parameters())
    homes = {parameter.device for parameter in parameters}
    # A tensor of another class than torch's own has more than its memory.
    plain = all(type(parameter.data) is Tensor for parameter in parameters)
    return plain and all(keeps_parameters(home, device) for home in homes)


def move_module(module: nn.Module, device: torch.device) -> None:
    """Move a module in place; its parameters stay the same objects, for optimizers and ties.

    Between the devices of some backends, torch would make new ones. If the memory of the device
    does not suffice, the module stays where it was.
    """
    homes = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    if not moves_in_place(module, device):
        torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.to(device)
    except RuntimeError:
        # A part of it has moved.
        with suppress(RuntimeError):
            for home in homes:
                module.to(home)
        raise
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
