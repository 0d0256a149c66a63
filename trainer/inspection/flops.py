"""FLOP counts: floating-point operations of each layer, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.flop_counter import FlopCounterMode

from fitorch.checks import plain
from fitorch.internals.torch import sequence_number
from fitorch.tree import leaves, sample_count

from .dry_run import dry_run, original_net, undisturbed
from .example_inputs import features_for
from .layer_table import LayerRow, LayerTable, Totals
from .layers import Layer, branches, layer_tree, note_of, shapes_of
from .module_tracer import Call, ModuleTracer

_UNITS = ("", "K", "M", "G", "T", "P", "E")


class FlopSummary(LayerTable):
    """The operations of each layer; `str(table)` is the table as text.

    Args:
        root: The net.
        counts: The operations of each call, forward and backward.
        totals: The operations of the whole net, forward and backward.
        samples: The number of samples.
        batch: The number in place of the batch size in shapes.
        depth: The depth of the shown layers, or None.
        backward: Whether the backward pass was counted.

    Attributes:
        forward: Operations of the forward pass over the batch.
        backward: Operations of the backward pass, 0 if it was not counted.
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
            flops = _layer_flops(layer, counts)
            percentage = f"{100 * sum(flops) / self.total:.1f}" if self.total else "0"
            columns = [format_count(count) for count in flops[: len(passes)]]
            numbers = [*columns, percentage] if flops else [""] * (len(passes) + 1)
            cells = [shapes_of(layer, samples, batch), *([number] for number in numbers)]
            kind = layer.kind if layer.depth else ""
            note = note_of(layer) if layer.same_as is not None or len(layer.calls) > 1 else ""
            rows.append(LayerRow(branch, below, layer.name, kind, cells, note, layer.depth))
        caption = f"FLOPs of {root.kind}: {format_count(self.total)} for {samples} samples"
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


def _layer_flops(layer: Layer, counts: dict[Call, tuple[int, int]]) -> list[int]:
    """Return the operations of a layer, or of its children if it was not called; [] for none."""
    flops: list[Any] = [counts[call] for call in layer.calls if call in counts]
    # A container that was not called itself has the operations of its children.
    flops = flops or [inner for child in layer.children if (inner := _layer_flops(child, counts))]
    return [sum(column) for column in zip(*flops, strict=True)]


def flop_summary(
    net: Any,
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
    """Show the number of floating-point operations of each layer for a batch.

    torch.utils.flop_counter counts the operations of matrix products, convolutions and attention; a
    multiplication and an addition are two operations. All others are cheap and not counted. The
    number of a layer includes those of the layers in it. The net does not change, as in `summary`.

    Args:
        net: The net, or a `KerasModel`.
        input_data: A batch of features, in any form that `summary` takes.
        input_data_args: Several inputs, as a sequence.
        input_shape: Instead of a batch: the shape of an input without the batch dimension.
        input_dtype: The dtype of the input, with `input_shape`.
        batch_size: The number of samples, with `input_shape`.
        features: The same as `input_data`.
        backward: Whether to count the backward pass too, as in training: to all parameters that are
            not frozen, but not to the features.
        depth: The number of levels of layers to show; None shows all.
        verbose: 0 prints nothing.

    Returns:
        The table; `forward`, `backward` and `total` are the numbers of operations for the batch.

    Raises:
        TypeError: `net` is neither a module nor a `KerasModel`, or `features` is not a batch.
        ValueError: There are no features, or no output has a gradient.
        ShapeError: A layer rejects the shape of its inputs.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(10, 5)
        >>> flop_summary(net, torch.randn(8, 10), verbose=0).forward  # 2 * 8 * 10 * 5
        800
    """
    net, batch_size, depth = original_net(net), plain(batch_size), plain(depth)
    batches = [batch for batch in (input_data, input_data_args, features) if batch is not None]
    inputs = features_for(net, batches, input_shape, input_dtype, batch_size)
    # A net without a batch dimension counts as one sample.
    samples = max(1, sample_count(inputs, default=1))
    counter = FlopCounterMode(display=False)
    # The clocks are read at the begin and the end of each call: differences are those of the call.
    tracer = ModuleTracer(net, counter.get_total_flops, _sequence_number)
    with undisturbed(net), _countable_kernels(net), torch.set_grad_enabled(backward), counter:
        output = dry_run(net, inputs, tracer)
        # This is read before the backward pass, which adds to the same counter.
        forward = counter.get_total_flops()
        by_node = _count_backward(net, output, counter) if backward else {}
    calls = [call for module_calls in tracer.calls.values() for call in module_calls]
    counts = {call: _call_flops(call, by_node) for call in calls if call.done}
    shown = batch_size if input_shape is not None and batch_size > 0 else -1
    totals = (forward, counter.get_total_flops() - forward)
    root = layer_tree(net, tracer.calls)
    table = FlopSummary(root, counts, totals, samples, shown, depth, backward=backward)
    if verbose:
        table.show()
    return table


def format_count(count: int) -> str:
    """Return a count with three significant digits and a unit: 1234567 as "1.23 M"."""
    value, unit = float(count), 0
    # 999.5 would be written as 1000 with three digits.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if not unit:
        return str(count)
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


@contextmanager
def _countable_kernels(net: nn.Module) -> Iterator[None]:
    """Disable fused kernels, whose operations the counter does not know."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    recurrent = any(isinstance(module, nn.RNNBase) for module in net.modules())
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn) if recurrent else ()
    with ExitStack() as stack:
        # The counter supports the matrix products of this variant.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for backend in backends:
            stack.callback(setattr, backend, "enabled", backend.enabled)
            backend.enabled = False
        yield


def _sequence_number() -> int:
    """Return the sequence number of autograd's next node; later nodes have larger ones."""
    with torch.enable_grad():
        # A new node has the next number: it marks the place in the graph.
        node = torch.zeros((), requires_grad=True).view(())
    return sequence_number(node.grad_fn)


def _count_backward(net: nn.Module, output: Any, counter: FlopCounterMode) -> dict[int, int]:
    """Run the backward pass without changing `.grad`; return the operations by graph node.

    Raises:
        ValueError: No output has a gradient.
    """
    ends = [tensor for tensor in leaves(output) if tensor.requires_grad]
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not ends or not parameters:
        message = (
            "there is no backward pass to count: no output of the net has a gradient; unfreeze "
            "parameters, or omit backward=True"
        )
        raise ValueError(message)
    by_node: dict[int, int] = {}
    with ExitStack() as hooks:
        # All hooks must exist before the backward pass runs.
        for node in _graph_nodes(ends):
            _count_node(node, counter, by_node, hooks)
        grads = [torch.ones_like(end) for end in ends]
        # `backward` would change `.grad`.
        torch.autograd.grad(ends, parameters, grads, allow_unused=True)
    return by_node


def _count_node(
    node: Node, counter: FlopCounterMode, by_node: dict[int, int], hooks: ExitStack
) -> None:
    """Register hooks that count the operations between a node's begin and its end."""
    number = sequence_number(node)

    def begin(_grads: object) -> None:
        # The count is subtracted here and added at the end, so that the difference is that of the
        # node.
        by_node[number] = by_node.get(number, 0) - counter.get_total_flops()

    def end(_inputs: object, _outputs: object) -> None:
        by_node[number] += counter.get_total_flops()

    hooks.callback(node.register_prehook(begin).remove)
    hooks.callback(node.register_hook(end).remove)


def _graph_nodes(ends: list[Tensor]) -> list[Node]:
    """Return all nodes of the graph of some tensors, except those that accumulate gradients."""
    nodes: dict[Node, None] = {}
    pending: list[Node | None] = [end.grad_fn for end in ends]
    while pending:
        node = pending.pop()
        if (
            node is not None
            and node not in nodes
            and node.name() != "torch::autograd::AccumulateGrad"
        ):
            nodes[node] = None
            pending += [following for following, _ in node.next_functions]
    return list(nodes)


def _call_flops(call: Call, by_node: dict[int, int]) -> tuple[int, int]:
    """Return the operations of a call, forward and backward.

    The backward nodes of a call have the sequence numbers between its begin and its end.
    """
    (before, first), (after, last) = call.clocks
    backward = sum(count for number, count in by_node.items() if first < number < last)
    return after - before, backward
