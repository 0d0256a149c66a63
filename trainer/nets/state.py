"""State dicts of nets with plain parameter names, independent of wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fitorch.distributed.dtensor import distribute_like
from fitorch.internals.torch import original_module


def check_module(net: object) -> None:
    """Check that `net` is a module.

    Raises:
        TypeError: It is a class, or another object.
    """
    if isinstance(net, type):
        message = f"net is the class {net.__name__}; pass {net.__name__}(...)"
        raise TypeError(message)
    if not isinstance(net, nn.Module):
        message = f"net is a {type(net).__name__}; expected a torch.nn.Module"
        raise TypeError(message)


@contextmanager
def buffers_restored(*modules: nn.Module) -> Iterator[None]:
    """Restore the buffers of modules at the end: the same objects with the same values."""
    saved = [
        (module._buffers, name, buffer, buffer.clone())
        for root in modules
        for module in root.modules()
        for name, buffer in module._buffers.items()
        if isinstance(buffer, Tensor) and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, before in saved:
            buffers[name] = buffer
            # Buffers without a change keep their version, which autograd checks.
            if not buffer.is_meta and not torch.equal(buffer, before):
                with torch.no_grad():
                    buffer.copy_(before)


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the net inside torch.compile, DataParallel or DistributedDataParallel."""
    # Wrappers may be nested.
    while True:
        inner = original_module(net)
        if inner is None and isinstance(net, _WRAPPERS):
            inner = net.module
        if inner is None:
            return net
        net = inner


def plain_state(net: nn.Module) -> dict[str, Any]:
    """Return the net's state dict without the name prefixes of wrappers."""
    return {plain_name(name): value for name, value in unwrapped(net).state_dict().items()}


def load_plain(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state dict into the net; either of them may come from a wrapper.

    Raises:
        RuntimeError: Names or shapes differ.
    """
    inner = unwrapped(net)
    current = inner.state_dict()
    names = {plain_name(name): name for name in current}
    plain = {plain_name(name): value for name, value in state.items()}
    # The file may be a state of DistributedDataParallel that torch saved with its prefix.
    if all(name.startswith("module.") and name not in names for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    named = {names.get(name, name): value for name, value in plain.items()}
    inner.load_state_dict(
        # Files hold whole tensors; each process takes its part.
        {name: distribute_like(value, current.get(name)) for name, value in named.items()}
    )


class NetState:
    """A net's state dict with plain names, as a part of the training state.

    Args:
        net: The net.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict with plain names."""
        return plain_state(self._net)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state dict."""
        load_plain(self._net, state)


class TrainedState:
    """Which parameters of some modules are trained, as a part of the training state.

    A callback may have frozen or unfrozen some before a checkpoint was saved. A loaded state is
    applied later, by `apply`: callbacks that restore the flags at the end of a fit must see those
    of the script first.

    Args:
        modules: The modules by the prefix of their names.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._loaded: set[str] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the frozen parameters."""
        return {"frozen": [name for name, p in self._named() if not p.requires_grad]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep a state for `apply`."""
        self._loaded = set(state["frozen"])

    def apply(self) -> None:
        """Freeze the parameters of the loaded state, and no others, if there is one."""
        frozen, self._loaded = self._loaded, None
        if frozen is None:
            return
        for name, parameter in self._named():
            if parameter.requires_grad == (name in frozen):
                parameter.requires_grad_(name not in frozen)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for prefix, module in self._modules.items():
            for name, parameter in unwrapped(module).named_parameters():
                yield prefix + plain_name(name), parameter


def plain_name(name: str) -> str:
    """Return a parameter's name without the prefixes of torch.compile."""
    return name.replace("_orig_mod.", "")
