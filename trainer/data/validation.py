"""Validation data: several sets by name, or a part of the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.tree import map_leaves

from .arrays import ROLES, as_columns, as_mapping, common_length, is_array, is_in_memory, is_sparse
from .lazy import LazyArray, has_lazy, lazy_columns
from .sources import is_arrays


def validation_sets(data: Any) -> dict[str, Any]:
    """Return the validation sets by the prefix of their columns.

    A mapping of names to data is several sets, `{"clean": ..., "noisy": ...}`, with columns such as
    `val_clean_loss`; a mapping with "labels", or a mapping of arrays, is a single set.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not data.keys() or "labels" in data:
        return {"val_": data}
    if any(is_array(part) or is_sparse(part) for part in data.values()):
        return {"val_": data}
    return {f"val_{name}_": part for name, part in data.items()}


def set_name(prefix: str) -> str:
    """Return the name of a validation set for messages."""
    name = prefix.removeprefix("val_").removesuffix("_")
    return f"val_data[{name!r}]" if name else "val_data"


def split_validation(data: Any, fraction: float, floating: torch.dtype) -> tuple[Any, Any]:
    """Split off the last `fraction` of the samples, before any shuffling, for validation.

    Raises:
        ValueError: `data` is not in memory, or a part would be empty.
    """
    columns: Any
    if is_arrays(data) and has_lazy(data):
        dataset = lazy_columns(data, "train_data", floating)
        is_mapping = isinstance(data, Mapping)
        columns = dataset.columns if is_mapping else tuple(dataset.columns)
        samples = len(dataset)
    elif isinstance(data, Mapping) and is_in_memory(data):
        columns = as_mapping(data, "train_data", floating)
        samples = common_length(columns)
    elif isinstance(data, tuple):
        columns = tuple(as_columns(data, "train_data", floating))
        samples = common_length(dict(zip(ROLES, columns, strict=False)))
    else:
        message = (
            f"validation_split={fraction} needs (x, y) of tensors, arrays or DataFrames, but "
            f"train_data is a {type(data).__name__}; pass val_data instead"
        )
        raise ValueError(message)
    # 10 * (1 - 0.9) is 0.9999999999999998, whose floor is not what is meant.
    cut = math.floor(round(samples * (1 - fraction), 6))
    if not 0 < cut < samples:
        message = (
            f"validation_split={fraction} of {samples} samples leaves {cut} for training and "
            f"{samples - cut} for validation; both need at least one"
        )
        raise ValueError(message)

    def part(places: slice) -> Any:
        # Slices are views: nothing is copied, or read from disk.
        return map_leaves(lambda column: column[places], columns, (Tensor, LazyArray))

    return part(slice(cut)), part(slice(cut, None))
