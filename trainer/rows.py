"""The lines of a table of layers: the tree beside them, shapes, parameters, notes."""

from __future__ import annotations

from torch.nn.parameter import is_lazy

from .layers import Layer, size
from .recorder import Outputs

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
