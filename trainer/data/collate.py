"""Samples to batches: what default_collate does, with arrays and lists as `(x, y)` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fitorch.tree import rebuild_mapping, rebuild_sequence

from .arrays import ROLES, is_array, to_tensors
from .tables import unmasked

Collate = Callable[[list[Any]], Any]

_NUMBERS = (bool, int, float, complex, np.generic)


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
            return values  # texts and objects
        except RuntimeError as error:
            # Numbers are meant for the net, and have to be padded.
            if not is_array(values[0]) and not is_numbers(values[0]):
                return values
            message = f"{error} (column {key!r}; remove it if the net does not take it)"
            raise RuntimeError(message) from error

    def _stacked(self, values: list[Any], *, labels: bool = False) -> Any:
        """Return what stacks the values of a part of the samples."""
        first = values[0]
        if isinstance(first, np.ma.MaskedArray):
            # default_collate would drop the masks.
            values = [unmasked(np.ma.asarray(value), "a sample") for value in values]
            first = values[0]
        if is_numbers(first):
            values = [_as_array(value) for value in values]
            first = values[0]
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


def is_numbers(value: object) -> bool:
    """Return whether a value is a non-empty list of numbers, or of such lists."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, _NUMBERS) or is_numbers(item) for item in value)


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
