"""Tensors of which each process holds a part, torch's DTensors: whole, local, joined."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def refuse_lazy(net: nn.Module, waiting: str) -> None:
    """Refuse a net whose layers get their shapes only with the first batch.

    Args:
        net: The net.
        waiting: What can't wait for that, for the message.

    Raises:
        ValueError: It names the parameters.
    """
    named: list[tuple[str, Any]] = [*net.named_parameters()]
    lazy = [name for name, parameter in named if is_lazy(parameter)]
    if lazy:
        message = (
            f"{', '.join(lazy[:5])} get their shapes with the first batch, which {waiting} can't "
            "wait for; give them their sizes, or call the net once before"
        )
        raise ValueError(message)


def is_split(value: Any) -> bool:
    """Say whether each process holds a part of a tensor."""
    return hasattr(value, "full_tensor")  # to ask for its class would import it


def local_tensor(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process holds: all of it, where it is not split."""
    part: Tensor = tensor.to_local() if is_split(tensor) else tensor
    return part


def full_tensor(tensor: Any) -> Tensor:
    """Return all of a tensor; where it is split, every process must call this."""
    joined: Tensor = tensor.full_tensor() if is_split(tensor) else tensor
    return joined


def gather_full(state: Any, *, keep: bool) -> Any:
    """Return a state with all of each tensor that is split, on the CPU; every process must call it.

    Args:
        state: The state.
        keep: Whether this process wants them; where not, each is let go of once it is whole.
    """

    def join(value: Any, _path: Any) -> Any:
        if not is_split(value):
            return value
        all_of_it = full_tensor(value.detach())
        return all_of_it.cpu() if keep else None

    return map_leaves(state, join)


def distribute_like(value: Any, own: Any) -> Any:
    """Return a tensor that all processes have, split as `own` is."""
    if not is_split(own) or is_split(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(own.device, own.dtype)
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)


def map_leaves(
    value: Any, change: Callable[[Any, tuple[str, ...]], Any], path: tuple[str, ...] = ()
) -> Any:
    """Return dicts, lists and tuples anew, with each of their leaves changed."""
    if type(value) in (dict, OrderedDict):
        return {key: map_leaves(each, change, (*path, str(key))) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(
            map_leaves(each, change, (*path, str(i))) for i, each in enumerate(value)
        )
    return change(value, path)
