"""Precision of a net under autocast, and the floating dtype of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.tree import map_tensors

Net = Callable[..., Any]

Cast = Callable[[Net], Net]


def in_precision(net: Net, device: torch.device, dtype: torch.dtype | None) -> Net:
    """Return `net` under autocast to `dtype` with outputs in float32, or `net` for None."""
    if dtype is None:
        return net

    def forward(*args: Any, **kwargs: Any) -> Any:
        # Autocast covers the net only: losses and metrics are computed in float32.
        with torch.autocast(device.type, dtype):
            output = net(*args, **kwargs)
        # Outputs in half precision would make losses and sums round.
        return map_tensors(_to_float32, output)

    return forward


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def floating_dtype(parameters: Iterable[nn.Parameter]) -> torch.dtype:
    """Return the dtype for float64 data of NumPy and pandas, by the net's parameters."""
    first = next((p for p in parameters if p.is_floating_point() or p.is_complex()), None)
    wide = first is not None and first.dtype in (torch.float64, torch.complex128)
    return torch.float64 if wide else torch.float32
