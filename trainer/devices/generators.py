"""The random generators of accelerators."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .accelerators import accelerator_type, accelerators, is_host, is_running, module_of


def generator_states(device: torch.device | None = None) -> dict[str, Tensor]:
    """Return the state of the generator of `device`, or of each accelerator, by their names.

    Without `device`, accelerators that torch has not started are left out: asking would start
    them, which takes memory and makes forks unsafe.
    """
    if device is not None:
        return {} if is_host(device) else {str(device): _state(device)}
    kind = accelerator_type()
    if kind is None or not is_running(kind):
        return {}
    return {str(each): _state(each) for each in accelerators()}


def set_generator_states(
    states: Mapping[str, Tensor], device: torch.device | None = None
) -> list[str]:
    """Restore states of `generator_states`.

    Args:
        states: The states by device. The state of a single device goes to `device`, whatever its
            number was.
        device: The device in use, or None.

    Returns:
        The devices whose states could not be restored: this machine has no such ones.
    """
    here = {str(each): each for each in accelerators()}
    lost = []
    for name, state in states.items():
        home = here.get(name)
        if device is not None and len(states) == 1 and torch.device(name).type == device.type:
            home = device
        if home is None:
            lost.append(name)
        else:
            _set_state(home, state)
    return lost


def saved_generator_states(
    state: Mapping[str, Any], device: torch.device | None = None
) -> dict[str, Tensor]:
    """Return the states in a random state, also in one of version 0.1, which had other names.

    Args:
        state: The random state.
        device: The device in use, whose state alone is returned if there is one of that name.
    """
    states = dict(state.get("devices", {}))
    for kind in ("cuda", "mps"):
        saved = state.get(kind, [])
        listed = saved if isinstance(saved, list) else [saved]
        states |= {f"{kind}:{number}": each for number, each in enumerate(listed)}
    # Only the device in use has drawn numbers; the states of all do not say which one it was.
    own = states.get(str(device))
    return states if own is None else {str(device): own}


def _state(device: torch.device) -> Tensor:
    ask = module_of(device).get_rng_state
    state: Tensor = ask(device) if _is_numbered(ask) else ask()
    return state


def _set_state(device: torch.device, state: Tensor) -> None:
    put = module_of(device).set_rng_state
    if _is_numbered(put):
        put(state, device)
    else:
        put(state)


def _is_numbered(function: object) -> bool:
    """Return whether a function of a device's module takes the device: MPS has only one."""
    return "device" in inspect.signature(function).parameters  # type: ignore[arg-type]
