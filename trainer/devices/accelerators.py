"""The accelerators that torch knows: CUDA, XPU, MPS, NPU and others take the same path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from fitorch.internals.torch import private_backend

HOST = torch.device("cpu")

_KNOWN = ("cuda", "xpu", "mps", "mtia")  # asked for one by one before torch 2.6


def module_of(device: torch.device) -> Any:
    """Return torch's module for the type of a device, as `torch.cuda`; None if it has none."""
    return getattr(torch, device.type, None)


def is_host(where: torch.device | Tensor) -> bool:
    """Return whether a device, or the device of a tensor, is the CPU."""
    device = where.device if isinstance(where, Tensor) else where
    return device.type == HOST.type


def accelerator_type() -> str | None:
    """Return the type of the machine's accelerators, as "cuda"; None if there are none."""
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6
    if accelerator is not None:
        current = accelerator.current_accelerator() if accelerator.is_available() else None
        return None if current is None else str(current.type)
    names = [*_KNOWN, private_backend()]
    return next((name for name in names if _is_available(name)), None)


def accelerators() -> list[torch.device]:
    """Return all accelerators of this machine."""
    kind = accelerator_type()
    return [] if kind is None else [torch.device(kind, number) for number in range(_count(kind))]


def default_device() -> torch.device:
    """Return the current accelerator, the CPU if there is none."""
    kind = accelerator_type()
    return HOST if kind is None else with_index(torch.device(kind))


def with_index(device: torch.device) -> torch.device:
    """Return the device with the number that torch uses if it has none; the CPU has no number."""
    number: int | None = device.index  # declared as an int in torch
    if is_host(device):
        return HOST
    if number is not None:
        return device
    current = getattr(module_of(device), "current_device", None)
    return torch.device(device.type, 0 if current is None else int(current()))


def chosen_device(device: str | int | torch.device) -> torch.device:
    """Return the device that a user chose.

    Args:
        device: A device, its name ("cuda:1", "cpu"), or the number of an accelerator.

    Raises:
        TypeError: `device` is none of these.
        ValueError: This machine does not have the device.
    """
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        message = f"device is {device!r}; expected a name such as 'cuda:1' or 'cpu', or None"
        raise TypeError(message)
    here, kind = [*accelerators(), HOST], accelerator_type()
    chosen: torch.device | None = None
    with suppress(RuntimeError):  # not a type of torch
        if not isinstance(device, int):
            chosen = torch.device(device)
        elif kind is not None:
            chosen = torch.device(kind, device)
    if chosen is not None and is_host(chosen):
        return HOST
    # torch fails if it is asked for the current device of a type that is not here.
    known = chosen is not None and chosen.type in {each.type for each in here}
    found = with_index(chosen) if known and chosen is not None else None
    if found not in here:
        listed = ", ".join(f"'{each}'" for each in here)
        message = f"device is {str(device)!r}, but this machine has {listed}"
        raise ValueError(message)
    return found


def described(device: torch.device) -> str:
    """Return the device with the name of its model, as "cuda:0 (NVIDIA H200)"."""
    name_of = getattr(module_of(device), "get_device_name", None)
    if is_host(device) or name_of is None:
        return str(device)
    return f"{device} ({name_of(device)})"


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Make an accelerator torch's current one, so that "cuda" means this one in users' code."""
    guard = getattr(module_of(device), "device", None)
    number: int | None = device.index  # declared as an int in torch
    if is_host(device) or number is None or guard is None:
        yield
        return
    with guard(device):
        yield


def make_current(device: torch.device) -> None:
    """Make an accelerator torch's current one in this process, which has it for itself."""
    choose = None if is_host(device) else getattr(module_of(device), "set_device", None)
    if choose is not None:
        choose(device)


def start(device: torch.device) -> None:
    """Let torch start a device, so that its generator exists before its first use."""
    begin = None if is_host(device) else getattr(module_of(device), "init", None)
    if begin is not None and not is_running(device.type):
        begin()


def is_running(kind: str) -> bool:
    """Return whether torch has started the accelerators of a type in this process."""
    started = getattr(getattr(torch, kind, None), "is_initialized", None)
    return started is None or bool(started())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device is used up."""
    kinds = (torch.cuda.OutOfMemoryError, getattr(torch, "OutOfMemoryError", MemoryError))
    return isinstance(error, kinds) and not isinstance(error, MemoryError)


def _is_available(kind: str) -> bool:
    module: Any = getattr(torch, kind, None)
    return module is not None and bool(getattr(module, "is_available", lambda: False)())


def _count(kind: str) -> int:
    count = getattr(getattr(torch, kind, None), "device_count", None)
    return 1 if count is None else int(count())
