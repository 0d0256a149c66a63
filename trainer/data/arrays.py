"""Conversion of arrays, DataFrames and nested structures of them to tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.errors import DataError
from fitorch.tree import leaves, rebuild_sequence

from .tables import (
    check_unsigned,
    is_arrow,
    is_table,
    not_numbers_message,
    table_numbers,
    unmasked,
)

NUMERIC_KINDS = "biufc"  # kinds of NumPy dtypes: bool, int, unsigned, float, complex

_NUMBERS = (bool, int, float, complex, np.bool_, np.number)

_WIDEST = {"f": "float64", "c": "complex128"}  # of torch, by the kind

_ACCEPTED = "pass a tensor, a NumPy array, a pandas DataFrame or Series, or a dict or tuple of them"


def is_array(value: object) -> bool:
    """Return whether `value` is a tensor, an array, a DataFrame or a Series."""
    if isinstance(value, (str, bytes)):
        return False  # texts of NumPy have a shape
    return isinstance(value, (Tensor, np.ndarray)) or (
        hasattr(value, "__array__") and hasattr(value, "shape")
    )


def is_numbers(value: object) -> bool:
    """Return whether a value is a non-empty list of numbers, or of such lists."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, _NUMBERS) or is_numbers(item) for item in value)


def is_in_memory(value: object) -> bool:
    """Return whether `value` is an array, or a non-empty mapping or sequence of only arrays."""
    if isinstance(value, Mapping):
        # The length of a TensorDict is that of its batch, and its truth value is an error.
        return len(value.keys()) > 0 and all(is_in_memory(item) for item in value.values())
    if isinstance(value, (tuple, list)):
        return bool(value) and all(is_in_memory(item) for item in value)
    return is_array(value) or is_sparse(value)


def is_sparse(value: object) -> bool:
    """Return whether `value` has the interface of a SciPy sparse matrix."""
    return hasattr(value, "toarray") and hasattr(value, "nnz")


def array_leaves(value: object) -> Iterator[Any]:
    """Yield the arrays in nested mappings, tuples and lists, depth first."""
    if isinstance(value, Mapping) and not is_sparse(value):
        for item in value.values():
            yield from array_leaves(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from array_leaves(item)
    elif is_array(value) or is_sparse(value):
        yield value


def to_tensors(
    value: Any, what: str, floating: torch.dtype, *, labels: bool = False, strict: bool = True
) -> Any:
    """Return `value` with every array converted to a tensor.

    Args:
        value: An array, or nested mappings and sequences of arrays.
        what: The name of the value for messages, such as "x".
        floating: The dtype for float64 of NumPy and pandas.
        labels: Whether to convert integers of any size to int64, and to accept None for one of
            several targets.
        strict: Whether other objects raise an error; otherwise, they are returned as they are.

    Raises:
        TypeError: There is an object that is not an array.
        DataError: A NumPy array or DataFrame contains objects or text.
    """

    def inner(part: Any, what: str) -> Any:
        if part is None and labels:
            return None
        return to_tensors(part, what, floating, labels=labels, strict=strict)

    if isinstance(value, Mapping) and not is_sparse(value):
        return {key: inner(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return rebuild_sequence(value, [inner(v, f"{what}[{i}]") for i, v in enumerate(value)])
    if isinstance(value, Tensor):
        return value
    if is_array(value) or is_sparse(value):
        return _from_numpy(_as_array(value, what), floating, labels)
    if strict:
        raise TypeError(_not_array_message(value, what))
    return value


def _not_array_message(value: Any, what: str) -> str:
    is_number = isinstance(value, (int, float, complex, np.number))
    more = "; numpy.array makes one of a list of numbers" if is_number else collect_hint(value)
    return f"{what} is a {type(value).__name__}; {_ACCEPTED}{more}"


def collect_hint(value: object) -> str:
    """Return the hint for a LazyFrame of polars, "" for other objects."""
    return "; .collect() reads the LazyFrame" if type(value).__name__ == "LazyFrame" else ""


def _as_array(value: Any, what: str) -> np.ndarray:
    """Return `value` as an array of numbers.

    Raises:
        DataError: It contains objects or text, numbers that torch does not have, or missing values.
    """
    array = _untabled(value, what)
    widest = _WIDEST.get(array.dtype.kind, array.dtype)
    if array.dtype.itemsize > np.dtype(widest).itemsize:
        message = f"{what} has dtype {array.dtype}, which torch does not have; use {widest}"
        raise DataError(message)
    if array.dtype.kind not in NUMERIC_KINDS:
        raise DataError(not_numbers_message(what, f"dtype {array.dtype}"))
    check_unsigned(array, what)
    return array


def _untabled(value: Any, what: str) -> np.ndarray:
    """Return `value` as an array; values that are missing raise an error."""
    if isinstance(value, np.ma.MaskedArray):
        return unmasked(value, what)
    if is_sparse(value):
        return np.asarray(value.toarray())  # a batch: data in memory is read by `SparseRows`
    if is_arrow(value):
        value = value.to_pandas()  # NumPy's own conversion would make NaN of nulls
    if not is_table(value):
        return np.asarray(value)
    array = table_numbers(value, what)
    # Codes of categories, as uint8, are indices; only in arrays they may be images.
    return array.astype(np.int64) if array.dtype == np.uint8 else array


def _from_numpy(array: np.ndarray, floating: torch.dtype, labels: bool) -> Tensor:
    # The array may come from another machine: torch has no foreign byte orders.
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    kind = array.dtype.kind
    # float64 is NumPy's default, which users rarely choose on purpose: features take the dtype of
    # the net.
    if array.dtype == np.float64:
        array = array.astype(np.float64 if floating == torch.float64 else np.float32, copy=False)
    elif array.dtype == np.complex128:
        wide = floating == torch.float64
        array = array.astype(np.complex128 if wide else np.complex64, copy=False)
    elif (labels and kind in "iu") or _is_widened(array):
        array = array.astype(np.int64, copy=False)
    return _as_tensor(array)


def _is_widened(array: np.ndarray) -> bool:
    """Return whether features of this dtype become int64; labels do in any case.

    Losses take class numbers in int64 only, embeddings their indices in int32 or int64, and
    unsigned types other than uint8, that of images, lack operations. Arrays of int8 and int16 with
    more dimensions than a table, such as volumes, would take too much memory.
    """
    small = array.dtype in (np.int8, np.int16) and array.ndim <= 2
    return small or array.dtype in (np.uint16, np.uint32, np.uint64)


def _as_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor that shares memory with `array` if possible; fitorch never writes to it."""
    array = np.ascontiguousarray(array) if array.ndim else array
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        # torch warns of writes to read-only memory, which fitorch never does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def common_length(parts: Mapping[str, Any], name: str = "the data") -> int:
    """Return the common number of samples of `parts`.

    Args:
        parts: The arrays by name.
        name: The name of all of them, for messages.

    Raises:
        DataError: The lengths differ, an array is a single number, or there are no arrays.
    """
    tensors = [(name, tensor) for name, tree in parts.items() for tensor in leaves(tree)]
    if not tensors:
        message = f"there is no array in {', '.join(parts) or 'the data'}; {_ACCEPTED}"
        raise DataError(message)
    for part, tensor in tensors:
        if not _has_rows(tensor):
            raise DataError(_rowless_message(tensor, part))
        if not tensor.dim():
            message = f"{part} is a single number; expected one entry per sample along dimension 0"
            raise DataError(message)
    lengths = dict.fromkeys((part, tensor.shape[0]) for part, tensor in tensors)
    if len({length for _, length in lengths}) > 1:
        listed = ", ".join(f"{part} has {length}" for part, length in list(lengths)[:10])
        message = f"{name} has different lengths: {listed} samples; they must be equal"
        raise DataError(message)
    return tensors[0][1].shape[0]


def _has_rows(tensor: Tensor) -> bool:
    """Return whether torch selects rows of a tensor by index."""
    return not tensor.is_nested and tensor.layout in (torch.strided, torch.sparse_coo)


def _rowless_message(tensor: Tensor, part: str) -> str:
    if tensor.is_nested:
        return f"{part} is a nested tensor, of which torch takes no rows; pass a list of batches"
    layout = str(tensor.layout).removeprefix("torch.")
    return (
        f"{part} is a tensor of layout {layout}, of which torch takes no rows; pass "
        "x.to_sparse_coo() or x.to_dense()"
    )


ROLES: tuple[str, ...] = ("x", "y", "sample_weight")


def as_columns(data: Any, name: str, floating: torch.dtype) -> list[Any]:
    """Return `(x, y[, sample_weight])`, or x alone, as a list of (nested) tensors.

    Raises:
        DataError: `data` is a tuple of more than three parts.
    """
    parts = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(parts) <= 3:
        message = f"{name} is a tuple of {len(parts)}; expected (x, y) or (x, y, sample_weight)"
        raise DataError(message)
    # (x, y, None) is (x, y).
    parts = parts[:2] if len(parts) == 3 and parts[2] is None else parts
    return [
        to_tensors(part, f"{name}'s {role}", floating, labels=role == "y")
        for part, role in zip(parts, ROLES, strict=False)
    ]


def as_mapping(data: Mapping[Any, Any], name: str, floating: torch.dtype) -> dict[Any, Any]:
    """Return a mapping of columns with (nested) tensors as values; "labels" are the targets."""
    return {
        key: to_tensors(column, f"{name}[{key!r}]", floating, labels=key == "labels")
        for key, column in data.items()
    }


def as_batch(batch: Any, name: str, floating: torch.dtype) -> Any:
    """Return a batch with its arrays converted to tensors, and other objects as they are.

    Lists of numbers in features, targets and weights become tensors, too.
    """
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        parts = [
            _as_part(part, f"{name}'s {role}", floating, labels=role == "y")
            for part, role in zip(batch, ROLES, strict=False)
        ]
        return rebuild_sequence(batch, parts) if hasattr(batch, "_fields") else parts
    if isinstance(batch, Mapping):
        return {
            key: _as_part(part, f"{name}[{key!r}]", floating, labels=key == "labels")
            for key, part in batch.items()
        }
    return to_tensors(batch, name, floating, strict=False)


def _as_part(part: Any, what: str, floating: torch.dtype, *, labels: bool) -> Any:
    return to_tensors(_lists_as_arrays(part), what, floating, labels=labels, strict=False)


def _lists_as_arrays(value: Any) -> Any:
    """Return `value` with arrays for its lists of numbers, except for those that are ragged."""
    if isinstance(value, list) and is_numbers(value):
        try:
            return np.array(value)
        except ValueError:
            return value
    if isinstance(value, (tuple, list)) and any(isinstance(part, list) for part in value):
        return rebuild_sequence(value, [_lists_as_arrays(part) for part in value])
    return value
