"""Images in channels-last memory, which convolutions and pooling are faster on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fitorch.tree import map_tensors

from .precision import Net


def lay_out(net: nn.Module) -> None:
    """Put a net's 4-dimensional weights into channels-last memory; their values stay."""
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = _channels_last(tensor.data)


def in_channels_last(net: Net) -> Net:
    """Return `net` with 4-dimensional inputs put into channels-last memory."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return net(*map(_laid_out, args), **{key: _laid_out(kwargs[key]) for key in kwargs})

    return call


def _laid_out(argument: Any) -> Any:
    if isinstance(argument, nn.Module):  # the net, in a user's own forward(net, batch)
        return argument
    return map_tensors(_channels_last, argument)


def _channels_last(tensor: Tensor) -> Tensor:
    # Unlike contiguous(), to() also gives strides of that layout to images of a single channel,
    # which count as contiguous in both; convolutions go by the strides.
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
