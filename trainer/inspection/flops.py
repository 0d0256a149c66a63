"""What a net computes: floating-point operations of each layer, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fitorch.internals.torch import sequence_number
from fitorch.tree import leaves, sample_count

from .dry_run import plain, try_out, undisturbed
from .example_inputs import features_for
from .layer_table import Row, Sheet, Totals
from .layers import Layer, branches, note_of, shapes_of, tree_of
from .module_tracer import Call, Recorder

_UNITS = ("", "K", "M", "G", "T", "P", "E")


class FlopSummary(Sheet):
    """The operations of each layer; `str(table)` is the table.

    Args:
        root: The net.
        counts: What each call, forward and backward, computed.
        totals: What the whole net did, forward and backward.
        samples: How many samples there were.
        batch: What stands for them in a shape.
        depth: How deep layers are shown, or None.
        backward: Whether the backward pass was counted.

    Attributes:
        forward: Operations of the forward pass over the batch.
        backward: Those of the backward pass, 0 where it was not counted.
        total: The sum of both.
    """

    def __init__(
        self,
        root: Layer,
        counts: dict[Call, tuple[int, int]],
        totals: tuple[int, int],
        samples: int,
        batch: int,
        depth: int | None,
        *,
        backward: bool,
    ) -> None:
        self.forward, self.backward = totals
        self.total = sum(totals)
        passes = ["Forward", "Backward"] if backward else ["FLOPs"]
        rows = []
        for branch, below, layer in branches(root, depth):
            each = _of_layer(layer, counts)
            share = f"{100 * sum(each) / self.total:.1f}" if self.total else "0"
            figures = [short(count) for count in each[: len(passes)]]
            numbers = [*figures, share] if each else [""] * (len(passes) + 1)
            cells = [shapes_of(layer, samples, batch), *([number] for number in numbers)]
            kind = layer.kind if layer.depth else ""
            note = note_of(layer) if layer.same_as is not None or len(layer.calls) > 1 else ""
            rows.append(Row(branch, below, layer.name, kind, cells, note, layer.depth))
        caption = f"FLOPs of {root.kind}: {short(self.total)} for {samples} samples"
        heads = ["Layer (type)", "Output Shape", *passes, "%"]
        super().__init__(heads, rows, [self._totals(samples, backward)], caption)

    def _totals(self, samples: int, backward: bool) -> Totals:
        heads = ("FLOPs", "of a sample", f"of a batch of {samples}")
        named = [("Forward", self.forward)]
        if backward:
            named += [("Backward", self.backward), ("Total", self.total)]
        lines = [(name, f"{value // samples:,}", f"{value:,}") for name, value in named]
        return Totals(
            heads if samples > 1 else ("FLOPs", ""),
            [line if samples > 1 else (line[0], line[2]) for line in lines],
        )


def _of_layer(layer: Layer, counts: dict[Call, tuple[int, int]]) -> list[int]:
    """Return the operations of a layer, of one that is not called those in it; [] for none."""
    found: list[Any] = [counts[call] for call in layer.calls if call in counts]
    found = found or [each for child in layer.children if (each := _of_layer(child, counts))]
    return [sum(column) for column in zip(*found, strict=True)]


def flop_summary(
    net: nn.Module,
    input_data: Any = None,
    input_data_args: Sequence[Any] | None = None,
    input_shape: Any = None,
    input_dtype: Any = None,
    batch_size: int = -1,
    *,
    features: Any = None,
    backward: bool = False,
    depth: int | None = None,
    verbose: int = 1,
) -> FlopSummary:
    """Show how many floating-point operations each layer takes for a batch.

    They are counted by torch.utils.flop_counter: those of matrix products, convolutions and
    attention, a multiplication and an addition being two; all else is cheap and not counted. A
    layer's figure contains those of the layers in it. Nothing is disturbed, as in `summary`.

    Args:
        net: The net.
        input_data: A batch of features, in any form that `summary` takes.
        input_data_args: Several inputs, as a sequence.
        input_shape: Instead: the shape of an input without the batch dimension.
        input_dtype: With `input_shape`: its type.
        batch_size: With `input_shape`: samples.
        features: The same as `input_data`.
        backward: Count the backward pass too, as in training: to all parameters that are not
            frozen, and not to the features.
        depth: How many levels of layers to show; None shows all.
        verbose: 0 prints nothing.

    Returns:
        The table; `forward`, `backward` and `total` are the figures of the batch.

    Raises:
        TypeError: `net` is no module, or `features` no batch.
        ValueError: There are no features, or nothing to go backward from.
        ShapeError: A layer rejects the shape of what it gets.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(10, 5)
        >>> flop_summary(net, torch.randn(8, 10), verbose=0).forward  # 2 * 8 * 10 * 5
        800
    """
    net = plain(net)
    given = [each for each in (input_data, input_data_args, features) if each is not None]
    batch_of = features_for(net, given, input_shape, input_dtype, batch_size)
    samples = max(1, sample_count(batch_of, default=1))
    counter = FlopCounterMode(display=False)
    recorder = Recorder(net, counter.get_total_flops, _sequence_number)
    with undisturbed(net), _countable(net), torch.set_grad_enabled(backward), counter:
        output = try_out(net, batch_of, recorder)
        forward = counter.get_total_flops()
        by_node = _go_backward(net, output, counter) if backward else {}
    calls = [call for each in recorder.begun.values() for call in each]
    counts = {call: _counts(call, by_node) for call in calls if call.done}
    shown = batch_size if input_shape is not None and batch_size > 0 else -1
    totals = (forward, counter.get_total_flops() - forward)
    root = tree_of(net, recorder.begun)
    table = FlopSummary(root, counts, totals, samples, shown, depth, backward=backward)
    if verbose:
        table.show()
    return table


def short(count: int) -> str:
    """Return a count with three digits that count and a unit: 1234567 as "1.23 M"."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if not unit:
        return str(count)
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


@contextmanager
def _countable(net: nn.Module) -> Iterator[None]:
    """Have torch compute by operations that the counter knows, instead of fused ones."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    recurrent = any(isinstance(module, nn.RNNBase) for module in net.modules())
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn) if recurrent else ()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for backend in backends:
            stack.callback(setattr, backend, "enabled", backend.enabled)
            backend.enabled = False
        yield


def _sequence_number() -> int:
    """Return a number that grows with each node of the graph that autograd notes."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).view(())
    return sequence_number(node.grad_fn)


def _go_backward(net: nn.Module, output: Any, counter: FlopCounterMode) -> dict[int, int]:
    """Go backward, leaving `.grad` alone; return the operations of each node of the graph.

    Raises:
        ValueError: Nothing has a gradient.
    """
    ends = [tensor for tensor in leaves(output) if tensor.requires_grad]
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not ends or not wanted:
        message = (
            "there is no backward pass to count: no output of the net has a gradient; unfreeze "
            "parameters, or leave backward=True away"
        )
        raise ValueError(message)
    by_node: dict[int, int] = {}
    with ExitStack() as hooks:
        for node in _nodes(ends):
            _meter(node, counter, by_node, hooks)
        grads = [torch.ones_like(end) for end in ends]
        torch.autograd.grad(ends, wanted, grads, allow_unused=True)
    return by_node


def _meter(node: Any, counter: FlopCounterMode, by_node: dict[int, int], hooks: ExitStack) -> None:
    """Note what is computed between a node's begin and its end."""
    number = sequence_number(node)

    def begin(_grads: Any) -> None:
        by_node[number] = by_node.get(number, 0) - counter.get_total_flops()

    def end(_inputs: Any, _outputs: Any) -> None:
        by_node[number] += counter.get_total_flops()

    hooks.callback(node.register_prehook(begin).remove)
    hooks.callback(node.register_hook(end).remove)


def _nodes(ends: list[Tensor]) -> list[Any]:
    """Return all nodes of the graph behind tensors, but for those that store gradients."""
    found: dict[Any, None] = {}
    pending: list[Any] = [end.grad_fn for end in ends]
    while pending:
        node = pending.pop()
        if (
            node is not None
            and node not in found
            and node.name() != "torch::autograd::AccumulateGrad"
        ):
            found[node] = None
            pending += [following for following, _ in node.next_functions]
    return list(found)


def _counts(call: Call, by_node: dict[int, int]) -> tuple[int, int]:
    """Return the operations of a call, forward, and backward: of the nodes that it noted."""
    (before, first), (after, last) = call.clocks
    backward = sum(count for number, count in by_node.items() if first < number < last)
    return after - before, backward
