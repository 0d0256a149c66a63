"""Sharded tensors, torch's DTensors: gather them, shard them, and access the local part."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def refuse_lazy(net: nn.Module, reason: str) -> None:
    """Raise an error if the net has lazy layers, whose shapes are unknown before the first batch.

    Args:
        net: The net.
        reason: What needs the shapes earlier, for the message.

    Raises:
        ValueError: There are lazy parameters; the message contains their names.
    """
    named: list[tuple[str, Any]] = [*net.named_parameters()]
    lazy = [name for name, parameter in named if is_lazy(parameter)]
    if lazy:
        message = (
            f"{', '.join(lazy[:5])} get their shapes only from the first batch, but {reason} needs "
            "them earlier; use layers with fixed sizes, or call the net once before"
        )
        raise ValueError(message)


def is_split(value: object) -> bool:
    """Return whether a tensor is sharded, so that each process holds a part of it."""
    return hasattr(value, "full_tensor")  # isinstance would import torch.distributed.tensor


def local_tensor(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process holds; if it is not sharded, all of it."""
    part: Tensor = tensor.to_local() if is_split(tensor) else tensor
    return part


def full_tensor(tensor: Any) -> Tensor:
    """Return the whole tensor; if it is sharded, all processes must call this."""
    whole: Tensor = tensor.full_tensor() if is_split(tensor) else tensor
    return whole


def gather_full(state: object, *, keep: bool) -> Any:
    """Return a state whose sharded tensors are gathered on the CPU; all processes must call this.

    Args:
        state: The state.
        keep: Whether to keep the gathered tensors in this process; otherwise each is None, and its
            memory is released before the next one is gathered.
    """

    def gather(value: Any, _path: tuple[str, ...]) -> Any:
        if not is_split(value):
            return value
        # All processes wait in this collective, and each needs memory for the whole tensor.
        whole = full_tensor(value.detach())
        # The copy waits for the device.
        return whole.cpu() if keep else None

    return map_leaves(state, gather)


def distribute_like(value: Any, like: Any) -> Any:
    """Return a tensor that all processes hold, sharded in the same way as `like`."""
    if not is_split(like) or is_split(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(like.device, like.dtype)
    # Without a source rank each process takes its part from its own copy: nothing is sent.
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def map_leaves(
    value: Any, change: Callable[[Any, tuple[str, ...]], Any], path: tuple[str, ...] = ()
) -> Any:
    """Return a copy of nested dicts, lists and tuples, with `change(leaf, path)` for each leaf."""
    if type(value) in (dict, OrderedDict):
        return {key: map_leaves(part, change, (*path, str(key))) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(
            map_leaves(part, change, (*path, str(i))) for i, part in enumerate(value)
        )
    return change(value, path)
