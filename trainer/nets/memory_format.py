"""Channels-last memory format for images, which is faster in convolutions and pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fitorch.tree import map_tensors

from .precision import Net


def lay_out(net: nn.Module) -> None:
    """Convert a net's 4-dimensional weights to channels-last memory; values do not change."""
    for tensor in (*net.parameters(), *net.buffers()):
        # Assigning `.data` keeps the parameters the same objects.
        tensor.data = _channels_last(tensor.data)


def in_channels_last(net: Net) -> Net:
    """Return a function that calls `net` with 4-dimensional inputs in channels-last memory."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return net(*map(_laid_out, args), **{key: _laid_out(kwargs[key]) for key in kwargs})

    return call


def _laid_out(argument: Any) -> Any:
    if isinstance(argument, nn.Module):  # the net, in a user's own forward(net, batch)
        return argument
    return map_tensors(_channels_last, argument)


def _channels_last(tensor: Tensor) -> Tensor:
    # Unlike contiguous(), to() also changes the strides of images with a single channel, which are
    # contiguous in both formats; convolutions choose their kernel by the strides.
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
