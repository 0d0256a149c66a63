"""A net's layers as a tree, and the lines that a table shows of it."""

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
    """A module in its place in the net.

    Args:
        module: The module.
        name: What its parent calls it; the net's own kind at the root.
        path: What the net calls it; "" at the root.
        depth: How deep it lies.
        same_as: The path under which it stands in the tree already, or None.
    """

    module: nn.Module
    name: str
    path: str
    depth: int
    same_as: str | None = None
    children: list[Layer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    own: list[nn.Parameter] = field(default_factory=list)  # not counted at another layer
    tied: list[tuple[str, str]] = field(default_factory=list)  # its name, whose it is

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return str(getattr(self.module, "original_name", type(self.module).__name__))

    @property
    def first(self) -> float:
        """The number of the first call of it or of a layer in it, infinite where there is none."""
        numbers = [call.number for call in self.calls]
        return min([*numbers, *(child.first for child in self.children)], default=math.inf)

    def walk(self) -> Iterator[Layer]:
        """Give the layer, and all in it, in the order of the tree."""
        yield self
        for child in self.children:
            yield from child.walk()

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of it and of all layers in it, each once in the whole net."""
        return [parameter for layer in self.walk() for parameter in layer.own]


def tree_of(net: nn.Module, calls: Mapping[int, list[Call]]) -> Layer:
    """Return a net's layers, in the order in which they were called; those never called are last.

    A module that stands in several places has its layers in the first alone; its calls are shared
    out over the places in turn.
    """
    places: dict[int, list[Layer]] = {}
    root = _plant(net, type(net).__name__, "", 0, places)
    for module, layers in places.items():
        for number, layer in enumerate(layers):
            layer.calls = calls.get(module, [])[number :: len(layers)]
    owners: dict[int, str] = {}
    for layer in _sort(root).walk():
        _own(layer, owners)
    return root


def _plant(
    module: nn.Module, name: str, path: str, depth: int, places: dict[int, list[Layer]]
) -> Layer:
    before = places.setdefault(id(module), [])
    layer = Layer(module, name, path, depth, before[0].path if before else None)
    before.append(layer)
    if layer.same_as is None:
        for key, child in module._modules.items():
            if child is not None:
                inner = f"{path}.{key}" if path else key
                layer.children.append(_plant(child, key, inner, depth + 1, places))
    return layer


def _sort(layer: Layer) -> Layer:
    for child in layer.children:
        _sort(child)
    layer.children.sort(key=lambda child: child.first)
    return layer


def _own(layer: Layer, owners: dict[int, str]) -> None:
    """Give a layer those of its direct parameters that no layer before it has."""
    if layer.same_as is not None:
        return
    for name, parameter in layer.module._parameters.items():
        if parameter is None:
            continue
        path = f"{layer.path}.{name}" if layer.path else name
        owner = owners.setdefault(id(parameter), path)
        if owner == path:
            layer.own.append(parameter)
        else:
            layer.tied.append((name, owner))


def size(tensors: list[Any]) -> int:
    """Return how many numbers tensors hold; those of layers that saw no batch yet hold none."""
    return sum(tensor.numel() for tensor in tensors if not is_lazy(tensor))


_SHAPES = 3  # of one layer, at most

_MEGABYTE = 2**20


def branches(
    root: Layer, depth: int | None, *, complete: bool = True
) -> list[tuple[str, str, Layer]]:
    """Return the layers of a tree with what stands to the left of them, and of what is below.

    Args:
        root: The net.
        depth: How deep layers are shown, or None.
        complete: Whether to show layers that were not called too.
    """
    found: list[tuple[str, str, Layer]] = []

    def grow(layer: Layer, branch: str, below: str) -> None:
        inner = [c for c in layer.children if complete or c.first < float("inf")]
        folded = depth is not None and layer.depth >= depth
        inner = [] if folded else inner
        found.append((branch, f"{below}│" if inner else f"{below} ", layer))
        for number, child in enumerate(inner, start=1):
            last = number == len(inner)
            grow(child, f"{below}{'└─ ' if last else '├─ '}", f"{below}{'   ' if last else '│  '}")

    grow(root, "", "")
    return found


def shapes_of(layer: Layer, samples: int, batch: int) -> list[str]:
    """Return the shapes of what a layer gave first, a line each, the batch dimension replaced."""
    if not layer.calls or not layer.calls[0].outputs:
        return ["-" if layer.calls and layer.calls[0].done else ""]
    outputs: Outputs = layer.calls[0].outputs
    several = len(outputs) > _SHAPES
    lines = [
        f"{path}: {_shape(shape, samples, batch)}" if path else _shape(shape, samples, batch)
        for path, shape in outputs[: _SHAPES - 1 if several else _SHAPES]
    ]
    return [*lines, f"+ {len(outputs) - len(lines)} more"] if several else lines


def _shape(shape: tuple[int, ...], samples: int, batch: int) -> str:
    """Return a shape as text; the batch is the first dimension that can be it, or the second.

    The second it is in the states of recurrent layers.
    """
    sizes = list(shape)
    if sizes and sizes[0] == samples:
        sizes[0] = batch
    elif len(sizes) > 2 and samples > 1 and sizes[1] == samples:
        sizes[1] = batch
    return str(sizes)


def count_of(layer: Layer, depth: int | None) -> str:
    """Return the parameters of a line, so that all lines add up to the total."""
    if layer.same_as is not None:
        return "-"
    folded = depth is not None and layer.depth >= depth
    counted = layer.parameters() if folded else layer.own
    if any(is_lazy(parameter) for parameter in counted):
        return "?"
    inner = bool(layer.children) and not folded
    return "" if inner and not counted else f"{size(counted):,}"


def note_of(layer: Layer, depth: int | None = None) -> str:
    """Say what is special about a layer: frozen, shared, tied, called several times, or never."""
    if layer.same_as is not None:
        return f"shared: same as {layer.same_as or 'the net'}"
    folded = depth is not None and layer.depth >= depth
    counted = layer.parameters() if folded else layer.own
    frozen = sum(not parameter.requires_grad for parameter in counted)
    notes = [f"{name} tied to {owner}" for name, owner in layer.tied]
    if frozen:
        notes.append("frozen" if frozen == len(counted) else "partly frozen")
    if len(layer.calls) > 1:
        notes.append(f"called {len(layer.calls)} times")
    if layer.calls and not layer.calls[-1].done and layer.calls[-1].leaf:
        notes.append("failed here")
    return ", ".join(notes)


def megabytes(count: float) -> str:
    """Return bytes in MB, with three digits that count."""
    value = count / _MEGABYTE
    if value == 0:
        return "0"
    digits = 2 - int(f"{value:e}".split("e")[1])
    return f"{value:,.{max(0, digits)}f}"
