"""The numbers in a metric's result, by the names of their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST, is_host
from fitorch.tree import leaves, map_leaves

from .unread import Rows, Unread, known

_IDS = "classes"  # the key of class numbers, which are not values, in MeanAveragePrecision


def result_of(metric: Any) -> Unread[Any]:
    """Return the result of a metric, whose numbers on a device have not been read.

    Metrics of fitorch leave all reads to the caller; others may read when they are computed.
    """
    if hasattr(metric, "unread"):
        unread: Unread[Any] = metric.unread()
        return unread
    result = metric.compute()
    # What a metric returns may be its state, whose data is replaced afterwards.
    tensors = [leaf.detach() for leaf in leaves(result) if _is_remote(leaf)]
    if not tensors:
        return known(result.detach() if isinstance(result, Tensor) else result)

    def finish(rows: Rows) -> Any:
        remaining = iter(rows)
        return map_leaves(
            lambda leaf: _like(leaf, next(remaining)) if _is_remote(leaf) else leaf, result, Tensor
        )

    return Unread(tensors, finish)


def _is_remote(tensor: Tensor) -> bool:
    return not (is_host(tensor) or tensor.is_complex())


def _like(tensor: Tensor, row: list[float]) -> Tensor:
    """Return a tensor of this shape and dtype in the host's memory."""
    return torch.tensor(row, dtype=tensor.dtype, device=HOST).reshape(tensor.shape)


def named_values(name: str, result: Any) -> dict[str, float]:
    """Return the numbers of a metric's result by column name; reading them waits for the device.

    A key of a mapping that equals the name is the column `name`, a key that starts with `name_` is
    a column itself, and any other key becomes `name_key`. Entries of tuples, lists and vectors are
    numbered: `name_0`, `name_1`. The class numbers `"classes"` of a mapping are left out.

    Raises:
        TypeError: A part of the result is not a number.
        ValueError: Two numbers have the same column.
    """
    values: dict[str, float] = {}
    for column, number in named_parts(name, result):
        if column in values:
            message = f"two values are named {column!r}; rename one of them"
            raise ValueError(message)
        values[column] = float(number)
    return values


def named_parts(name: str, result: Any) -> Iterator[tuple[str, Any]]:
    """Yield the column name of each number of a result, and the number, which may be a tensor.

    Raises:
        TypeError: A part of the result is not a number.
    """
    if isinstance(result, (Tensor, np.ndarray)):
        yield from _elements(name, result)
    elif isinstance(result, (Real, np.bool_)):
        yield name, result
    else:
        for column, part in _entries(name, result):
            yield from named_parts(column, part)


def _entries(name: str, result: Any) -> list[tuple[str, Any]]:
    """Return the entries of a mapping, tuple or list by their columns."""
    if isinstance(result, Mapping):
        return [
            (column_of(name, str(key)), part)
            for key, part in result.items()
            if not (key == _IDS and _is_integral(part))
        ]
    if not isinstance(result, (tuple, list)) or not result:
        raise TypeError(_message(name, result))
    names = [name] if len(result) == 1 else [f"{name}_{i}" for i in range(len(result))]
    return list(zip(names, result, strict=True))


def _elements(name: str, array: Any) -> Iterator[tuple[str, Any]]:
    numeric = isinstance(array, Tensor) or array.dtype.kind in "biuf"
    size = array.numel() if isinstance(array, Tensor) else array.size
    if not (numeric and size) or (isinstance(array, Tensor) and array.is_complex()):
        raise TypeError(_message(name, array))
    if size == 1:
        yield name, array.reshape(())
    else:
        for index, number in enumerate(array.reshape(-1).tolist()):
            yield f"{name}_{index}", number


def column_of(name: str, key: str) -> str:
    """Return the column of a key in the result of the metric `name`."""
    return key if key == name or key.startswith(f"{name}_") else f"{name}_{key}"


def _is_integral(part: Any) -> bool:
    if isinstance(part, Tensor):
        return not part.is_floating_point()
    return np.asarray(part).dtype.kind in "iu"


def _message(name: str, part: Any) -> str:
    shape = f" of shape {tuple(part.shape)}" if hasattr(part, "shape") else f" {part!r}"
    return (
        f"it returned a {type(part).__name__}{shape[:60]} for {name!r}; return a number, or a "
        "mapping, tuple, list or vector of numbers"
    )
