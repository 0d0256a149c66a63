"""Module tracer: records the calls of a net's modules with hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.tree import describe, leaves

Outputs = list[tuple[str, tuple[int, ...]]]  # path and shape of each tensor


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module.

    Args:
        module: The module.
        number: The number of calls that began before.
        inputs: A description of the inputs, for messages.
        storages: The addresses of the inputs' storages.
    """

    module: nn.Module
    number: int
    inputs: str
    storages: set[int]
    leaf: bool = True
    done: bool = False
    outputs: Outputs = field(default_factory=list)
    new_bytes: int = 0  # of outputs that do not share memory with inputs
    clocks: list[tuple[int, ...]] = field(default_factory=list)  # counts at begin and end


class ModuleTracer:
    """Records the calls of all modules of a net.

    Args:
        net: The net.
        clocks: Functions that return counts, called at begin and end of each call.

    Attributes:
        calls: All calls by the id of the module, in the order in which they began.
        active: The calls that have not ended; after an error, the last one is the one that failed.
    """

    def __init__(self, net: nn.Module, *clocks: Callable[[], int]) -> None:
        self.calls: dict[int, list[Call]] = {}
        self.active: list[Call] = []
        self._net = net
        self._clocks = clocks
        self._number = 0

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Register hooks in all modules, and remove them at the end."""
        attention: Any = torch.backends.mha
        with ExitStack() as hooks:
            # The fast path of attention does not call layers, in some versions even with hooks.
            hooks.callback(attention.set_fastpath_enabled, attention.get_fastpath_enabled())
            attention.set_fastpath_enabled(False)
            for module in self._net.modules():
                if not isinstance(module, torch.jit.ScriptModule):  # does not support these hooks
                    # Keyword arguments are included, because transformers pass their inputs by
                    # name.
                    begin = module.register_forward_pre_hook(self._begin, with_kwargs=True)
                    hooks.callback(begin.remove)
                    end = module.register_forward_hook(self._end, with_kwargs=True)
                    hooks.callback(end.remove)
            yield

    @property
    def failed(self) -> Call | None:
        """The call that raised an error, or None."""
        return self.active[-1] if self.active else None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Outputs that share memory with inputs, as views, take no memory of their own.
        storages = {_storage(tensor) for tensor in leaves((args, kwargs))}
        call = Call(module, self._number, _describe(args, kwargs), storages - {0})
        self._number += 1
        self.calls.setdefault(id(module), []).append(call)
        if self.active:
            # A call within another one: the outer module is not a leaf.
            self.active[-1].leaf = False
        self.active.append(call)
        call.clocks.append(tuple(clock() for clock in self._clocks))

    def _end(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        while self.active[-1].module is not module:  # the net caught an error of a layer
            self.active.pop()
        call = self.active.pop()
        call.clocks.append(tuple(clock() for clock in self._clocks))
        call.done = True
        tensors = list(named_leaves(output))
        call.outputs = [(path, tuple(tensor.shape)) for path, tensor in tensors]
        new = {_storage(t): t.nbytes for _, t in tensors if _storage(t) not in call.storages}
        call.new_bytes = sum(new.values())


def _describe(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return describe(args[0]) if len(args) == 1 and not kwargs else describe(args or kwargs)


def _storage(tensor: Tensor) -> int:
    """Return the address of a tensor's storage, or the tensor's id if it does not have one."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse, meta, and the like
        return id(tensor)


def named_leaves(tree: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an output with the keys that lead to them, such as "logits"."""
    if isinstance(tree, Tensor):
        yield path, tree
        return
    names = getattr(tree, "_fields", None)
    if isinstance(tree, tuple) and names is not None:
        tree = dict(zip(names, tree, strict=True))
    elif is_dataclass(tree) and not isinstance(tree, type) and not isinstance(tree, Mapping):
        tree = {part.name: getattr(tree, part.name, None) for part in fields(tree)}
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from named_leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from named_leaves(value, path)
