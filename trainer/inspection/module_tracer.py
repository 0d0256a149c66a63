"""What the modules of a net are given and give: calls, noted by hooks."""

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
        module: Which.
        number: How many calls began before it.
        got: What it was given, for messages.
        storages: Where that lies.
    """

    module: nn.Module
    number: int
    got: str
    storages: set[int]
    leaf: bool = True
    done: bool = False
    outputs: Outputs = field(default_factory=list)
    new_bytes: int = 0  # of outputs that are neither inputs nor views of them
    clocks: list[tuple[int, ...]] = field(default_factory=list)  # at its begin, and at its end


class Recorder:
    """Notes the calls of all modules of a net.

    Args:
        net: The net.
        clocks: Counts to note at begin and end of each call.

    Attributes:
        begun: All calls, by module, in the order in which they began.
        open: Those under way; after an error, the innermost is the one that failed.
    """

    def __init__(self, net: nn.Module, *clocks: Callable[[], int]) -> None:
        self.begun: dict[int, list[Call]] = {}
        self.open: list[Call] = []
        self._net = net
        self._clocks = clocks
        self._number = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook into all modules, and let go of them at the end, whatever happens."""
        attention: Any = torch.backends.mha
        with ExitStack() as hooks:
            # Its shortcut calls no layers, and some releases of torch take it in spite of hooks.
            hooks.callback(attention.set_fastpath_enabled, attention.get_fastpath_enabled())
            attention.set_fastpath_enabled(False)
            for module in self._net.modules():
                if not isinstance(module, torch.jit.ScriptModule):  # it takes no such hooks
                    begin = module.register_forward_pre_hook(self._begin, with_kwargs=True)
                    hooks.callback(begin.remove)
                    end = module.register_forward_hook(self._end, with_kwargs=True)
                    hooks.callback(end.remove)
            yield

    @property
    def failed(self) -> Call | None:
        """The call that an error ended."""
        return self.open[-1] if self.open else None

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = (args, kwargs)
        storages = {_storage(tensor) for tensor in leaves(given)}
        call = Call(module, self._number, _describe(args, kwargs), storages - {0})
        self._number += 1
        self.begun.setdefault(id(module), []).append(call)
        if self.open:
            self.open[-1].leaf = False
        self.open.append(call)
        call.clocks.append(tuple(clock() for clock in self._clocks))

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        while self.open[-1].module is not module:  # the net caught an error of a layer's
            self.open.pop()
        call = self.open.pop()
        call.clocks.append(tuple(clock() for clock in self._clocks))
        call.done = True
        found = list(named_leaves(output))
        call.outputs = [(path, tuple(tensor.shape)) for path, tensor in found]
        fresh = {_storage(t): t.nbytes for _, t in found if _storage(t) not in call.storages}
        call.new_bytes = sum(fresh.values())


def _describe(args: Any, kwargs: Any) -> str:
    return describe(args[0]) if len(args) == 1 and not kwargs else describe(args or kwargs)


def _storage(tensor: Tensor) -> int:
    """Return where a tensor's memory begins; 0 where it has none that could be told."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse, meta, and the like
        return id(tensor)


def named_leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of an output with the keys that lead to them, as "logits" or "1.0"."""
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
