"""Columns of a data set, or of one of its batches, by their roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .arrays import to_tensors
from .errors import DataError

ROLES: tuple[str, ...] = ("x", "y", "sample_weight")


def as_columns(data: Any, name: str, floating: torch.dtype) -> list[Any]:
    """Turn `(x, y[, sample_weight])`, or x alone, into a list of (nested) tensors.

    Raises:
        DataError: It is a tuple of another length.
    """
    parts = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(parts) <= 3:
        message = f"{name} is a tuple of {len(parts)}; expected (x, y) or (x, y, sample_weight)"
        raise DataError(message)
    parts = parts[:2] if len(parts) == 3 and parts[2] is None else parts
    return [
        to_tensors(part, f"{name}'s {role}", floating, labels=role == "y")
        for part, role in zip(parts, ROLES, strict=False)
    ]


def as_mapping(data: Mapping[Any, Any], name: str, floating: torch.dtype) -> dict[Any, Any]:
    """Turn a mapping of columns into one of (nested) tensors; "labels" are its targets."""
    return {
        key: to_tensors(column, f"{name}[{key!r}]", floating, labels=key == "labels")
        for key, column in data.items()
    }


def as_batch(batch: Any, name: str, floating: torch.dtype) -> Any:
    """Turn the arrays of a batch of any form into tensors; leave all else as it is."""
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        return [
            to_tensors(part, f"{name}'s {role}", floating, labels=role == "y", strict=False)
            for part, role in zip(batch, ROLES, strict=False)
        ]
    if isinstance(batch, Mapping):
        return {
            key: to_tensors(
                part, f"{name}[{key!r}]", floating, labels=key == "labels", strict=False
            )
            for key, part in batch.items()
        }
    return to_tensors(batch, name, floating, strict=False)
