"""What a device can do: dtypes, pinned memory, fused optimizers, messages between processes."""

from __future__ import annotations

from functools import cache

import torch

from fitorch.internals.torch import fused_devices

from .accelerators import HOST, is_host

# Metal has no float64. Pinned memory is a matter of devices with memory of their own: those of
# Apple share the host's.
_WITH_GRAPHS = ("cuda",)
_WITHOUT_FLOAT64 = _SHARE_MEMORY = ("mps",)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the widest float dtype of a device, in which sums are kept."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the widest float dtype of its device."""
    return tensor.to(widest_float(tensor.device))


def has_fused_optimizers(device: torch.device) -> bool:
    """Return whether torch's optimizers have fused kernels on a device."""
    return device.type in fused_devices()


def pins(device: torch.device) -> bool:
    """Return whether copies to a device, or from it, run beside the host from pinned memory."""
    return not is_host(device) and _pins(device.type)


@cache
def _pins(kind: str) -> bool:
    if kind in _SHARE_MEMORY:
        return False
    try:
        # Asking is the only way that holds for all backends.
        return bool(torch.empty(1, device=HOST).pin_memory().is_pinned())
    except (RuntimeError, NotImplementedError):
        return False


def records_graphs(device: torch.device) -> bool:
    """Return whether torch.compile can record steps as graphs that a device runs by itself."""
    return device.type in _WITH_GRAPHS


def group_backend(device: torch.device) -> str:
    """Return the backend of a process group: gloo for the CPU, and torch's own for a device.

    Messages about settings and figures are short and start on the CPU: over gloo they neither take
    memory of a device nor wait for it.
    """
    from torch.distributed import distributed_c10d

    backends = distributed_c10d.Backend.default_device_backend_map
    own = backends.get(device.type, "gloo")
    return "gloo" if own == "gloo" else f"cpu:gloo,{device.type}:{own}"
