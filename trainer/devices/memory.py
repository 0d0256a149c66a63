"""The memory of devices, in bytes."""

from __future__ import annotations

from typing import Any

import torch

from .accelerators import is_host, module_of


def free_memory(device: torch.device, *, at_peak: bool = False) -> int | None:
    """Return the free memory of a device, None if it cannot be asked for.

    Memory that torch holds without using it counts as free.

    Args:
        device: The device.
        at_peak: Whether to return what was left when tensors took the most.
    """
    information = None if is_host(device) else _information(device)
    if information is None:
        return None
    reserved = _statistic(device, "memory_reserved") or 0
    used = _statistic(device, "max_memory_allocated" if at_peak else "memory_allocated") or 0
    return max(0, int(information[0]) + reserved - used)


def total_memory(device: torch.device) -> int | None:
    """Return the memory of a device, None if it cannot be asked for."""
    information = None if is_host(device) else _information(device)
    return None if information is None else int(information[1])


def peak_memory(device: torch.device) -> int | None:
    """Return the largest memory that tensors have taken on a device, None if it is unknown."""
    return None if is_host(device) else _statistic(device, "max_memory_allocated")


def _information(device: torch.device) -> tuple[int, int] | None:
    """Return free and total memory."""
    ask: Any = getattr(module_of(device), "mem_get_info", None)
    if ask is None:
        ask = getattr(getattr(torch, "accelerator", None), "get_memory_info", None)  # torch 2.9
    try:
        return None if ask is None else ask(device)
    except (RuntimeError, NotImplementedError):  # a backend without such a question
        return None


def _statistic(device: torch.device, name: str) -> int | None:
    ask: Any = getattr(module_of(device), name, None)
    try:
        return None if ask is None else int(ask(device))
    except (RuntimeError, NotImplementedError):
        return None
