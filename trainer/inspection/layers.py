"""Layer tree of a net, and the texts for the rows of a layer table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from .module_tracer import Call, Outputs


@dataclass(slots=True, eq=False)
class Layer:
    """A module at its position in the net.

    Args:
        module: The module.
        name: Its name in the parent module; the class of the net at the root.
        path: Its name in the net; "" at the root.
        depth: Its depth in the tree.
        same_as: The path at which the same module occurs before, or None.
    """

    module: nn.Module
    name: str
    path: str
    depth: int
    same_as: str | None = None
    children: list[Layer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    own_parameters: list[nn.Parameter] = field(default_factory=list)  # not counted before
    tied: list[tuple[str, str]] = field(default_factory=list)  # name, and path of the owner

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return str(getattr(self.module, "original_name", type(self.module).__name__))

    @property
    def first(self) -> float:
        """The number of its first call, or of a layer in it; infinity if there is none."""
        numbers = [call.number for call in self.calls]
        return min([*numbers, *(child.first for child in self.children)], default=math.inf)

    def walk(self) -> Iterator[Layer]:
        """Yield the layer and all layers in it, in the order of the tree."""
        yield self
        for child in self.children:
            yield from child.walk()

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the layer and all layers in it, each counted once per net."""
        return [parameter for layer in self.walk() for parameter in layer.own_parameters]


def layer_tree(net: nn.Module, calls: Mapping[int, list[Call]]) -> Layer:
    """Return a net's layers in the order of their calls; those that were not called are last.

    If a module occurs several times, only the first occurrence has children, and its calls are
    assigned to the occurrences in turn.
    """
    occurrences: dict[int, list[Layer]] = {}
    root = _build_tree(net, type(net).__name__, "", 0, occurrences)
    for module, layers in occurrences.items():
        for number, layer in enumerate(layers):
            # A module at n places is called n times; the calls are dealt out in turn.
            layer.calls = calls.get(module, [])[number :: len(layers)]
    owners: dict[int, str] = {}
    # This follows the sorting, so that the first call owns a tied parameter.
    for layer in _sort_by_call(root).walk():
        _assign_parameters(layer, owners)
    return root


def _build_tree(
    module: nn.Module, name: str, path: str, depth: int, occurrences: dict[int, list[Layer]]
) -> Layer:
    # Modules are compared by identity: one may occur at several places.
    before = occurrences.setdefault(id(module), [])
    layer = Layer(module, name, path, depth, before[0].path if before else None)
    before.append(layer)
    if layer.same_as is None:
        for key, child in module._modules.items():
            if child is not None:
                inner = f"{path}.{key}" if path else key
                layer.children.append(_build_tree(child, key, inner, depth + 1, occurrences))
    return layer


def _sort_by_call(layer: Layer) -> Layer:
    for child in layer.children:
        _sort_by_call(child)
    # The sort is stable: layers without a call keep their order, at the end.
    layer.children.sort(key=lambda child: child.first)
    return layer


def _assign_parameters(layer: Layer, owners: dict[int, str]) -> None:
    """Assign the direct parameters of a layer, except those that an earlier layer has."""
    if layer.same_as is not None:
        return
    for name, parameter in layer.module._parameters.items():
        if parameter is None:
            continue
        path = f"{layer.path}.{name}" if layer.path else name
        # The first layer that has a parameter owns it; later ones are tied to it.
        owner = owners.setdefault(id(parameter), path)
        if owner == path:
            layer.own_parameters.append(parameter)
        else:
            layer.tied.append((name, owner))


def size(tensors: list[Any]) -> int:
    """Return the total number of elements; lazy parameters, which are not initialized, have 0."""
    return sum(tensor.numel() for tensor in tensors if not is_lazy(tensor))


_MAX_SHAPES = 3  # of one layer, at most

_MEGABYTE = 2**20


def branches(
    root: Layer, depth: int | None, *, complete: bool = True
) -> list[tuple[str, str, Layer]]:
    """Return the layers of a tree, with the tree characters left of them and of the lines below.

    Args:
        root: The net.
        depth: The depth of the shown layers, or None.
        complete: Whether to include layers that were not called.
    """
    entries: list[tuple[str, str, Layer]] = []

    def grow(layer: Layer, branch: str, below: str) -> None:
        inner = [c for c in layer.children if complete or c.first < float("inf")]
        folded = depth is not None and layer.depth >= depth
        inner = [] if folded else inner
        entries.append((branch, f"{below}│" if inner else f"{below} ", layer))
        for number, child in enumerate(inner, start=1):
            last = number == len(inner)
            grow(child, f"{below}{'└─ ' if last else '├─ '}", f"{below}{'   ' if last else '│  '}")

    grow(root, "", "")
    return entries


def shapes_of(layer: Layer, samples: int, batch: int) -> list[str]:
    """Return the output shapes of a layer's first call, one per line, with `batch` for samples."""
    if not layer.calls or not layer.calls[0].outputs:
        return ["-" if layer.calls and layer.calls[0].done else ""]
    outputs: Outputs = layer.calls[0].outputs
    several = len(outputs) > _MAX_SHAPES
    lines = [
        f"{path}: {_shape(shape, samples, batch)}" if path else _shape(shape, samples, batch)
        for path, shape in outputs[: _MAX_SHAPES - 1 if several else _MAX_SHAPES]
    ]
    return [*lines, f"+ {len(outputs) - len(lines)} more"] if several else lines


def _shape(shape: tuple[int, ...], samples: int, batch: int) -> str:
    """Return a shape as text, with `batch` in place of the number of samples.

    The batch is the first dimension if its size matches, or the second, as in the states of
    recurrent layers.
    """
    sizes = list(shape)
    if sizes and sizes[0] == samples:
        sizes[0] = batch
    elif len(sizes) > 2 and samples > 1 and sizes[1] == samples:
        sizes[1] = batch
    return str(sizes)


def parameter_count(layer: Layer, depth: int | None) -> str:
    """Return the number of parameters for a row, so that all rows add up to the total."""
    if layer.same_as is not None:
        return "-"
    folded = depth is not None and layer.depth >= depth
    counted = layer.parameters() if folded else layer.own_parameters
    if any(is_lazy(parameter) for parameter in counted):
        return "?"
    inner = bool(layer.children) and not folded
    return "" if inner and not counted else f"{size(counted):,}"


def note_of(layer: Layer, depth: int | None = None) -> str:
    """Return a note about a layer: frozen, shared, tied, called several times, or failed."""
    if layer.same_as is not None:
        return f"shared: same as {layer.same_as or 'the net'}"
    folded = depth is not None and layer.depth >= depth
    counted = layer.parameters() if folded else layer.own_parameters
    frozen = sum(not parameter.requires_grad for parameter in counted)
    notes = [f"{name} tied to {owner}" for name, owner in layer.tied]
    if frozen:
        notes.append("frozen" if frozen == len(counted) else "partly frozen")
    if len(layer.calls) > 1:
        notes.append(f"called {len(layer.calls)} times")
    if layer.calls and not layer.calls[-1].done and layer.calls[-1].leaf:
        notes.append("failed here")
    return ", ".join(notes)


def format_megabytes(count: float) -> str:
    """Return bytes in MB, with three significant digits."""
    value = count / _MEGABYTE
    if value == 0:
        return "0"
    digits = 2 - int(f"{value:e}".split("e")[1])
    return f"{value:,.{max(0, digits)}f}"
