"""Samples to batches: what default_collate does, with arrays and lists as `(x, y)` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fitorch.errors import DataError
from fitorch.tree import map_leaves, rebuild_mapping, rebuild_sequence

from .arrays import NUMERIC_KINDS, ROLES, array_leaves, is_array, is_numbers, to_tensors
from .recognition import is_graph
from .tables import is_arrow, is_table, unmasked

_NO_SAMPLE = (
    "a sample is None; expected (features, targets): __getitem__ of the Dataset, or the iterable, "
    "returned nothing (leave the sample out, or pass DataLoader(collate_fn=...) that does so)"
)

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, slots=True)
class SampleCollate:
    """Collates samples of a Dataset.

    Tensors become what `default_collate` makes of them. Arrays, numbers and lists of numbers get
    the dtypes that they have in `(x, y)`: float64 becomes the dtype of the net, and class numbers
    int64. A column of a row that cannot be stacked, such as one with None, texts or lists of texts
    of different lengths, stays a list: the net may not take it.

    Args:
        floating: The dtype for float64 of NumPy and Python.
    """

    floating: torch.dtype

    def __call__(self, samples: list[Any]) -> Any:
        """Return the batch of some samples."""
        first = samples[0]
        for sample in samples:
            if sample is None:
                raise DataError(_NO_SAMPLE)
        if is_table(first) or is_arrow(first):
            message = (
                f"a sample is a {type(first).__name__}, as datasets of Hugging Face yield in a "
                "format of tables; expected rows of arrays: pass dataset.with_format('torch'), or "
                "with_format(None)"
            )
            raise DataError(message)
        if isinstance(first, Mapping):
            columns = {key: self._column(samples, key) for key in first}
            return columns if type(first) is dict else rebuild_mapping(first, columns)
        if isinstance(first, (tuple, list)) and len(first) in (2, 3):
            parts = [
                self._stacked(list(column), labels=role == "y")
                for column, role in zip(zip(*samples, strict=True), ROLES, strict=False)
            ]
            return rebuild_sequence(first, parts) if hasattr(first, "_fields") else parts
        return self._stacked(samples)

    def _column(self, samples: list[Any], key: Any) -> Any:
        values = [sample[key] for sample in samples]
        if any(value is None for value in values):
            return values
        try:
            return self._stacked(values, labels=key == "labels")
        except TypeError:
            return [_plain(value) for value in values]  # texts and objects
        except RuntimeError as error:
            # Numbers are meant for the net, and have to be padded.
            if not is_array(values[0]) and not is_numbers(values[0]):
                return values
            message = f"{error} (column {key!r}; remove it if the net does not take it)"
            raise RuntimeError(message) from error

    def _stacked(self, values: list[Any], *, labels: bool = False) -> Any:
        """Return what stacks the values of a part of the samples."""
        first = values[0]
        if is_graph(first):
            return _graphs(values)
        if isinstance(first, np.ma.MaskedArray):
            # default_collate would drop the masks.
            values = [unmasked(np.ma.asarray(value), "a sample") for value in values]
            first = values[0]
        if is_numbers(first):
            values = [_as_array(value) for value in values]
            first = values[0]
        if any(isinstance(leaf, np.ndarray) for leaf in array_leaves(first)):
            values = [map_leaves(_native, value, np.ndarray) for value in values]
        batch = default_collate(values)
        return self._converted(first, batch, labels)

    def _converted(self, sample: Any, batch: Any, labels: bool) -> Any:
        """Return a batch with the tensors that come from arrays or numbers converted."""
        if isinstance(batch, Tensor):
            if isinstance(sample, Tensor):
                return batch
            return to_tensors(batch.numpy(), "a sample", self.floating, labels=labels)
        if isinstance(sample, Mapping):
            converted = {key: self._converted(sample[key], batch[key], labels) for key in batch}
            return converted if type(batch) is dict else rebuild_mapping(batch, converted)
        if isinstance(sample, (tuple, list)) and isinstance(batch, (tuple, list)):
            pairs = zip(sample, batch, strict=True)
            return rebuild_sequence(batch, [self._converted(s, b, labels) for s, b in pairs])
        return batch


def check_format(dataset: Any, name: str) -> None:
    """Check that a dataset of Hugging Face does not have a format of tables.

    Raises:
        DataError: It has: torch takes no samples from it.
    """
    settings = getattr(dataset, "format", None)
    if isinstance(settings, Mapping) and settings.get("type") in ("arrow", "polars"):
        message = (
            f"{name} has the format {settings['type']!r}, as datasets of Hugging Face yield in a "
            "format of tables; expected rows of arrays: pass dataset.with_format('torch'), or "
            "with_format(None)"
        )
        raise DataError(message)


def _graphs(graphs: list[Any]) -> Any:
    """Return a batch of graphs, as the DataLoader of torch_geometric does."""
    from torch_geometric.data import Batch

    return Batch.from_data_list(graphs)


def _native(array: np.ndarray) -> np.ndarray:
    """Return an array that torch can take: with the byte order of this machine, not reversed."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array.copy() if array.ndim and min(array.strides) < 0 else array


def _plain(value: Any) -> Any:
    """Return an array of texts as a list, as a row without a format has it."""
    is_foreign = isinstance(value, np.ndarray) and value.dtype.kind not in NUMERIC_KINDS
    return value.tolist() if is_foreign else value


def _as_array(value: Sequence[Any]) -> np.ndarray:
    """Return nested lists of numbers as an array.

    Raises:
        RuntimeError: They have different lengths.
    """
    try:
        return np.array(value)
    except ValueError as error:
        # The words of default_collate, for which a hint exists.
        message = f"each element in list of batch should be of equal size: {error}"
        raise RuntimeError(message) from error
