"""Joining of predictions: the outputs of batches become one output with a row for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.utils.rnn import PackedSequence

from fitorch.errors import DataError
from fitorch.tree import (
    describe,
    fields_of,
    is_record,
    leaves,
    parameters_of_distribution,
    rebuild_distribution,
    rebuild_mapping,
    rebuild_record,
    rebuild_sequence,
)

WAYS = ("auto", "list", "pad")


class BatchOutput(NamedTuple):
    """The output of the net for a batch.

    Attributes:
        output: The output, on the CPU.
        counts: The possible numbers of samples in the batch, the likeliest first.
        second: The size of dimension 1 of the features, -1 if there is none. It is the number of
            samples of sequences (T, N, C), if the data has as many samples as all of these.
    """

    output: Any
    counts: tuple[int, ...]
    second: int = -1


def counted(output: Any, batch: Any, features: Any, *, whole: bool) -> BatchOutput:
    """Return an output with the possible numbers of samples in its batch.

    Args:
        output: The output of the net.
        batch: The batch.
        features: Its features.
        whole: Whether the net gets a list of features as one argument.
    """
    graphs = getattr(features, "num_graphs", None)
    if isinstance(graphs, int):  # a batch of torch_geometric, whose outputs may be of its nodes
        return BatchOutput(output, (graphs, int(getattr(features, "num_nodes", graphs))))
    if isinstance(features, PackedSequence):
        return BatchOutput(output, (int(features.batch_sizes[0]),))
    shapes = [_plain_shape(leaf) for leaf in leaves(features) if leaf.dim()]
    targets = [leaf.shape[0] for leaf in leaves(targets_of(batch)) if leaf.dim()]
    counts = [shape[0] for shape in shapes]
    second = shapes[0][1] if shapes and len(shapes[0]) > 1 else -1
    if targets[:1] == [second] != counts[:1]:
        # Sequences of shape (T, N, C) have targets for N samples.
        counts = []
    if isinstance(features, (tuple, list)) and (whole or not shapes):
        counts.insert(0, len(features))
    return BatchOutput(output, (*counts, *targets), second)


def join_outputs(outputs: list[BatchOutput], how: str, samples: int | None = None) -> Any:
    """Return the outputs of all batches as one.

    Args:
        outputs: The outputs, batch by batch.
        how: "auto" for one row per sample, and lists of what has no such rows; "pad" pads tensors
            whose other dimensions differ with zeros; "list" is the list of the outputs.
        samples: The number of samples in all batches, None if it is unknown.

    Raises:
        DataError: No dimension of the outputs has the size of the batches.
    """
    values = [output.output for output in outputs]
    if how == "list":
        return values
    misfits: list[list[Any]] = []
    attempts = _attempts(outputs, samples)
    for counts, dimensions in attempts:
        joiner = _Joiner(counts, dimensions, pad=how == "pad")
        joined = joiner.join(values)
        if joiner.rows and len(dimensions) == 1:
            # Parts of another layout, such as the state of an LSTM, are joined along theirs.
            return _Joiner(counts, (0, 1), pad=how == "pad").join(values)
        if joiner.rows or not joiner.misfits:
            return joined
        misfits = misfits or joiner.misfits
    counts, misfit = attempts[0][0], misfits[0]
    number = next(i for i, value in enumerate(misfit) if _size(value, 0) != counts[i])
    message = (
        f"batch {number + 1} has {counts[number]} samples, but the output of the net is "
        f"{_described(misfit[number])}; pass features with a batch dimension (x[None] for one "
        "sample), or predict(..., join='list') for the outputs as they are"
    )
    raise DataError(message)


def _plain_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor, of a nested one its number of samples."""
    return (tensor.size(0),) if tensor.is_nested else tuple(tensor.shape)


def targets_of(batch: Any) -> Any:
    """Return the targets of a batch, None if it has none."""
    if isinstance(batch, Mapping):
        return batch.get("labels")
    is_pair = isinstance(batch, (tuple, list)) and len(batch) in (2, 3)
    return batch[1] if is_pair else None


def _attempts(
    outputs: list[BatchOutput], samples: int | None
) -> list[tuple[list[int], tuple[int, ...]]]:
    """Return the possible numbers of samples of all batches, and their dimensions, in order."""
    columns = [list(counts) for counts in zip(*(output.counts for output in outputs), strict=False)]
    if not columns:  # nothing is known about the batches, so the outputs are the samples
        first = [next(leaves(output.output), None) for output in outputs]
        columns = [[_size(leaf, 0) for leaf in first]]
    # Numbers that add up to all samples come first.
    second = [output.second for output in outputs]
    sums = [counts for counts in [*columns, second] if sum(counts) == samples]
    others = [counts for counts in columns if counts not in sums]
    # Sequences of shape (T, N, C) have their samples along dimension 1, if 0 does not fit.
    dimensions: tuple[tuple[int, ...], ...] = ((0,), (0, 1))
    return [(n, d) for group in (sums, others) for d, n in product(dimensions, group)]


class _Joiner:
    """Joins trees of the same structure, one for each batch.

    Args:
        counts: The number of samples in each batch.
        dimensions: The dimensions that may be that of the samples, in their order.
        pad: Whether other dimensions that differ are padded.

    Attributes:
        rows: Whether some part of the outputs has a row for each sample.
        misfits: The tensors and arrays without such rows, batch by batch.
    """

    def __init__(self, counts: list[int], dimensions: tuple[int, ...], *, pad: bool) -> None:
        self._counts, self._dimensions, self._pad = counts, dimensions, pad
        self.rows = False
        self.misfits: list[list[Any]] = []

    def join(self, values: list[Any]) -> Any:
        """Return the values of all batches as one, or the list of them."""
        if all(value is None for value in values):
            return None
        if _all_are(values, Tensor) or _all_are(values, np.ndarray):
            return self._arrays(values)
        if _all_are(values, (tuple, list)) and not _all_are(values, PackedSequence):
            return self._sequences(values)
        same = len(set(map(type, values))) == 1
        return self._named_parts(values) if same else values

    def _named_parts(self, values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, Distribution):
            return self._distributions(values)
        if isinstance(first, Mapping):
            return rebuild_mapping(first, self._by_name(values)) if _same_keys(values) else values
        if is_record(first):
            return rebuild_record(first, self._by_name([fields_of(value) for value in values]))
        return values

    def _by_name(self, values: list[Any]) -> dict[Any, Any]:
        return {name: self.join([value[name] for value in values]) for name in values[0]}

    def _arrays(self, values: list[Any]) -> Any:
        rows = _unsqueezed(values, self._counts)
        fits = (d for d in self._dimensions if [_size(v, d) for v in rows] == self._counts)
        dimension = next(fits, None)
        if dimension is None:
            self.misfits.append(values)
            return values
        self.rows = True
        if len({_without(value.shape, dimension) for value in rows}) > 1:
            if not self._pad or len({value.ndim for value in rows}) > 1:
                return values
            rows = _padded(rows, dimension)
        if isinstance(rows[0], Tensor):
            return torch.cat(rows, dimension)
        return np.concatenate(rows, dimension)

    def _distributions(self, values: list[Any]) -> Any:
        parts = [parameters_of_distribution(value) for value in values]
        joined = {}
        for name, first in parts[0].items():
            column = [part[name] for part in parts]
            if isinstance(first, (Tensor, Distribution)):
                joined[name] = self.join(column)
            elif all(value == first for value in column):
                joined[name] = first  # a setting, such as the number of draws
            if isinstance(joined.get(name, values), list):
                return values
        try:
            return rebuild_distribution(values[0], joined)
        except (TypeError, ValueError):  # a class of the user's with other arguments
            return values

    def _sequences(self, values: list[Any]) -> Any:
        lengths, parts = [len(value) for value in values], _has_parts(values[0])
        if lengths == self._counts and not self._are_outputs(values):
            # A list of N entries is N predictions.
            self.rows = True
            return [entry for value in values for entry in value]
        if len(set(lengths)) > 1 or not parts:
            self.misfits.append(values)
            return values
        joined = [self.join(list(column)) for column in zip(*values, strict=True)]
        return rebuild_sequence(values[0], joined)

    def _is_tuple_of_outputs(self, values: list[Any]) -> bool:
        """Return whether tuples hold parts of different kinds, or one with a row per sample."""
        kinds = {type(entry) for value in values for entry in value}
        rows = (
            _size(entry, 0) == count
            for value, count in zip(values, self._counts, strict=True)
            for entry in value
        )
        return len(kinds) > 1 or any(rows)

    def _are_outputs(self, values: list[Any]) -> bool:
        """Return whether sequences as long as their batches hold tensors of all samples."""
        if isinstance(values[0], tuple) and self._is_tuple_of_outputs(values):
            return True
        if len(set(self._counts)) > 1:
            return hasattr(values[0], "_fields")
        count = self._counts[0]
        return all(_size(entry, 0) == count for value in values for entry in value)


def _has_parts(sequence: Any) -> bool:
    """Return whether an entry of a sequence may have rows of its own, as a tensor or a list has."""
    kinds = (Tensor, np.ndarray, Mapping, tuple, list, Distribution)
    return any(isinstance(entry, kinds) or is_record(entry) for entry in sequence)


def _all_are(values: list[Any], types: Any) -> bool:
    return all(isinstance(value, types) for value in values)


def _same_keys(values: list[Any]) -> bool:
    return all(value.keys() == values[0].keys() for value in values)


def _size(value: Any, dimension: int) -> int:
    """Return the size of a dimension, -1 if there is none."""
    shape = () if getattr(value, "is_nested", False) else getattr(value, "shape", ())
    return int(shape[dimension]) if len(shape) > dimension else -1


def _without(shape: Any, dimension: int) -> tuple[int, ...]:
    return (*shape[:dimension], *shape[dimension + 1 :])


def _unsqueezed(values: list[Any], counts: list[int]) -> list[Any]:
    """Return the values with the dimension of a single sample that the net has squeezed."""
    dims = {value.ndim for value, n in zip(values, counts, strict=True) if n != 1}
    ones = [value for value, n in zip(values, counts, strict=True) if n == 1]
    if not dims and any(_size(value, 0) == 1 or _size(value, 1) == 1 for value in ones):
        return values
    return [
        value[None] if n == 1 and (not dims or value.ndim + 1 in dims) else value
        for value, n in zip(values, counts, strict=True)
    ]


def _padded(values: list[Any], dimension: int) -> list[Any]:
    """Return the values with zeros at the end of all dimensions but one."""
    largest = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    padded = []
    for value in values:
        shape = [*largest]
        shape[dimension] = value.shape[dimension]
        is_tensor = isinstance(value, Tensor)
        result = value.new_zeros(shape) if is_tensor else np.zeros(shape, value.dtype)
        result[tuple(map(slice, value.shape))] = value
        padded.append(result)
    return padded


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return describe(value)
