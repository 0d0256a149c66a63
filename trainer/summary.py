"""The summary of a net: its layers with output shapes, numbers of parameters, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fitorch.inspection.dry_run import dry_run, original_net, undisturbed
from fitorch.inspection.example_inputs import features_for
from fitorch.inspection.layer_table import LayerRow, LayerTable, Totals
from fitorch.inspection.layers import (
    Layer,
    branches,
    format_megabytes,
    layer_tree,
    note_of,
    parameter_count,
    shapes_of,
    size,
)
from fitorch.inspection.module_tracer import ModuleTracer

from .checks import plain
from .tree import byte_count, sample_count


class Summary(LayerTable):
    """The layers of a net; `str(summary)` is the table.

    Args:
        root: The net, as the root of its layers.
        features: The features that the net was called with.
        samples: The number of samples in the features.
        batch: The batch size that shapes show.
        depth: The number of levels of layers to show, None for all.
        complete: Whether the call of the net was successful.
        chosen_batch: Whether fitorch chose the number of samples.

    Attributes:
        total_params: The number of elements in all parameters; shared ones count once.
        trainable_params: The number of elements in parameters that are not frozen.
        buffers: The number of elements in all buffers.
        param_bytes: The memory of the parameters.
        buffer_bytes: The memory of the buffers.
        input_bytes: The memory of the features.
        pass_bytes: The memory of the outputs of the innermost layers, and of their gradients.
    """

    def __init__(
        self,
        root: Layer,
        features: Any,
        samples: int,
        batch: int,
        depth: int | None,
        *,
        complete: bool = True,
        chosen_batch: bool = False,
    ) -> None:
        parameters, buffers = root.parameters(), list(root.module.buffers())
        self.total_params = size(parameters)
        self.trainable_params = size([p for p in parameters if p.requires_grad])
        self.buffers = size(buffers)
        self.param_bytes, self.buffer_bytes = byte_count(parameters), byte_count(buffers)
        self.input_bytes = byte_count(features)
        calls = [call for layer in root.walk() for call in layer.calls if call.leaf]
        self.pass_bytes = 2 * sum(call.new_bytes for call in calls)
        rows = [
            LayerRow(
                branch,
                below,
                layer.name,
                layer.kind if layer.depth else "",
                [shapes_of(layer, samples, batch), [parameter_count(layer, depth)]],
                note_of(layer, depth),
                layer.depth,
            )
            for branch, below, layer in branches(root, depth, complete=complete)
        ]
        totals = [self._parameters()]
        totals += [self._memory(samples, chosen_batch or samples == 1)] if complete else []
        caption = f"Summary of {root.kind}: {self.total_params:,} parameters"
        super().__init__(["Layer (type)", "Output Shape", "Param #"], rows, totals, caption)

    def _parameters(self) -> Totals:
        frozen = self.total_params - self.trainable_params
        lines = [
            ("Total params", f"{self.total_params:,}"),
            ("Trainable params", f"{self.trainable_params:,}"),
            ("Non-trainable params", f"{frozen:,}"),
        ]
        return Totals((), [*lines, ("Buffers", f"{self.buffers:,}")])

    def _memory(self, samples: int, of_one: bool) -> Totals:
        fixed = self.param_bytes + self.buffer_bytes
        sample = [self.input_bytes / samples, self.pass_bytes / samples, fixed]
        batch = [self.input_bytes, self.pass_bytes, fixed]
        label = "Params and buffers" if self.buffers else "Params"
        labels = ["Input", "Forward/backward pass", label, "Estimated total"]
        columns = [[*column, sum(column)] for column in (sample, batch)]
        heads = ("Memory in MB", "of a sample", f"of a batch of {samples}")
        shown = 1 if of_one else 2
        lines = [
            (name, *(format_megabytes(value) for value in values[:shown]))
            for name, *values in zip(labels, *columns, strict=True)
        ]
        return Totals(heads[: shown + 1], lines)


def summary(
    net: Any,
    input_data: Any = None,
    input_data_args: Sequence[Any] | None = None,
    input_shape: Any = None,
    input_dtype: Any = None,
    batch_size: int = -1,
    *,
    features: Any = None,
    depth: int | None = None,
    verbose: int = 1,
) -> Summary:
    """Show the layers of a net: output shapes, numbers of parameters, and memory.

    The net is called once, in eval mode and without gradients. Modes, buffers, random generators
    and hooks are restored afterwards, even if the call fails; only lazy layers keep the parameters
    that the call has initialized. Parameters that layers share are counted once.

    Args:
        net: The net, or a `KerasModel`.
        input_data: A batch of features, for `net(x)`; a tuple or list for `net(*x)`, a mapping for
            `net(**x)`; or a DataLoader or Dataset, for the features of its first batch. They are
            moved to the net's device, and floats are converted to its precision.
        input_data_args: Several inputs, as a sequence.
        input_shape: Instead of features, the shape of an input without the batch dimension, as
            (3, 32, 32); a list of shapes for several inputs, a mapping for named ones.
        input_dtype: With `input_shape`, the type of the input, as torch.long; or one for each.
        batch_size: With `input_shape`, the number of samples, which shapes show instead of -1.
        features: The same as `input_data`.
        depth: The number of levels of layers to show; the numbers of deeper layers are included in
            those above. None shows all.
        verbose: 0 prints nothing.

    Returns:
        The table: `str` returns its text, a notebook displays it; `total_params` and other numbers
        are attributes. An MB is 2**20 bytes. The forward/backward pass counts the outputs of the
        innermost layers, twice for the gradients, without tensors that functions between them keep.

    Raises:
        TypeError: `net` is neither a module nor a `KerasModel`, or `features` are not a batch.
        ValueError: There are no features, or both features and `input_shape`.
        ShapeError: A layer rejects the shape of its input; the layers before it are printed.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        >>> table = summary(net, torch.randn(8, 2), verbose=0)
        >>> table
        <Summary of Sequential: 17 parameters>
        >>> table.total_params
        17
    """
    net, batch_size, depth = original_net(net), plain(batch_size), plain(depth)
    inputs = [data for data in (input_data, input_data_args, features) if data is not None]
    batch = features_for(net, inputs, input_shape, input_dtype, batch_size)
    samples, tracer = max(1, sample_count(batch, default=1)), ModuleTracer(net)
    shown = batch_size if input_shape is not None and batch_size > 0 else -1
    try:
        with undisturbed(net), torch.no_grad():
            dry_run(net, batch, tracer)
    except Exception:
        if verbose and tracer.active:
            root = layer_tree(net, tracer.calls)
            Summary(root, batch, samples, shown, depth, complete=False).show()
        raise
    root, chosen_batch = layer_tree(net, tracer.calls), input_shape is not None and shown == -1
    table = Summary(root, batch, samples, shown, depth, chosen_batch=chosen_batch)
    if verbose:
        table.show()
    return table
