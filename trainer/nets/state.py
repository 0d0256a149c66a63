"""A net's state dict under plain names, whatever wrapped the net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fitorch.distributed.dtensor import distribute_like
from fitorch.internals.torch import original_module


def check_module(net: object) -> None:
    """Refuse what is no module, as a class that was not called.

    Raises:
        TypeError: It is none.
    """
    if isinstance(net, type):
        message = f"net is the class {net.__name__}; pass {net.__name__}(...)"
        raise TypeError(message)
    if not isinstance(net, nn.Module):
        message = f"net is a {type(net).__name__}; expected a torch.nn.Module"
        raise TypeError(message)


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the net that torch.compile, DataParallel or DistributedDataParallel was given."""
    while True:
        inner: Any = original_module(net)
        if inner is None and isinstance(net, _WRAPPERS):
            inner = net.module
        if inner is None:
            return net
        net = inner


def plain_state(net: nn.Module) -> dict[str, Any]:
    """Return the net's state dict, its names free of what wrappers put before them."""
    return {plain_name(name): value for name, value in unwrapped(net).state_dict().items()}


def load_plain(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state dict into the net, whatever wrapped either of them.

    Raises:
        RuntimeError: Names or shapes differ (torch's own message).
    """
    inner = unwrapped(net)
    table = inner.state_dict()
    own = {plain_name(name): name for name in table}
    plain = {plain_name(name): value for name, value in state.items()}
    if all(name.startswith("module.") and name not in own for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    named = {own.get(name, name): value for name, value in plain.items()}
    inner.load_state_dict(
        {name: distribute_like(value, table.get(name)) for name, value in named.items()}
    )


class NetState:
    """A net's state dict with plain names, as a part of a fit's state.

    Args:
        net: The net.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def state_dict(self) -> dict[str, Any]:
        """Return it."""
        return plain_state(self._net)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load one."""
        load_plain(self._net, state)


def plain_name(name: str) -> str:
    """Return a parameter's name without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")
