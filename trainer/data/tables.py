"""DataFrames and Series of pandas and polars, and masked arrays: their numbers, missing values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fitorch.errors import DataError

_NUMERIC_KINDS = "biufc"  # kinds of NumPy dtypes: bool, int, unsigned, float, complex

_LISTED = 5  # columns that a message lists


def is_table(value: object) -> bool:
    """Return whether `value` is a DataFrame or Series of pandas or polars."""
    return _library(value) is not None and hasattr(value, "to_numpy")


def is_arrow(value: object) -> bool:
    """Return whether `value` is a table of pyarrow."""
    return type(value).__module__.partition(".")[0] == "pyarrow" and hasattr(value, "column_names")


def table_numbers(table: Any, what: str) -> np.ndarray:
    """Return the numbers of a DataFrame or Series as an array.

    Columns of one kind of number keep it; columns of different kinds, such as the numbers and
    booleans of pandas.get_dummies, become float64.

    Args:
        table: The DataFrame or Series.
        what: Its name for messages, such as "train_data's x".

    Raises:
        DataError: A column does not have numbers, or a value is missing.
    """
    array = np.asarray(table) if _is_plain(table) else _converted(table, what)
    if array.dtype.kind not in "fc" or not array.size or not np.isnan(np.min(array)):
        return array
    counts = np.isnan(array).sum(0) if array.ndim > 1 else np.isnan(array).sum(keepdims=True)
    raise DataError(_missing_message(table, what, counts.reshape(counts.shape[0], -1).sum(1)))


def check_unsigned(array: np.ndarray, what: str) -> None:
    """Check that int64 has all values of an array.

    Raises:
        DataError: A value of uint64 is too large.
    """
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        message = f"{what} has the value {array.max()}, which int64 does not have; use smaller ones"
        raise DataError(message)


def unmasked(array: Any, what: str) -> np.ndarray:
    """Return a masked array without its mask.

    Raises:
        DataError: A value is masked.
    """
    mask = np.ma.getmaskarray(array)
    if not mask.any():
        return np.asarray(array.data)
    message = (
        f"{what} is a masked array with masked values: {counted(mask)}; fill them with "
        ".filled(value), or leave out these samples"
    )
    raise DataError(message)


def counted(mask: np.ndarray) -> str:
    """Return the number of elements that are True, of a matrix by column."""
    if mask.ndim != 2 or mask.shape[1] == 1:
        return f"{int(mask.sum())} of {mask.size}"
    counts = mask.sum(0)
    return listed_counts((f"column {n}", counts[n]) for n in np.flatnonzero(counts))


def _library(value: object) -> str | None:
    """Return "pandas" or "polars" for their DataFrames and Series, subclasses, and likes."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in ("pandas", "polars"):
            return library
    # Modin and cuDF have the interface of pandas.
    likes = all(hasattr(value, name) for name in ("columns", "dtypes", "isna", "to_numpy"))
    return "pandas" if likes else None


def _columns(table: Any) -> list[tuple[Any, Any]]:
    """Return the names and dtypes of the columns; a Series has one."""
    if hasattr(table, "columns"):
        return list(zip(table.columns, table.dtypes, strict=True))
    return [(getattr(table, "name", None), table.dtype)]


def _is_plain(table: Any) -> bool:
    """Return whether all columns have the same dtype of NumPy, and none is missing by a mask."""
    if _library(table) != "pandas" or not hasattr(table, "dtypes"):
        return False
    dtypes = {table.dtypes} if not hasattr(table, "columns") else set(table.dtypes)
    only = next(iter(dtypes)) if len(dtypes) == 1 else None
    return isinstance(only, np.dtype) and only.kind in _NUMERIC_KINDS


def _converted(table: Any, what: str) -> np.ndarray:
    columns = _columns(table)
    is_series = not hasattr(table, "columns")
    kinds = [_kind(dtype, is_series=is_series) for _, dtype in columns]
    if any(kind is None for kind in kinds):
        raise DataError(_foreign_message(table, what, columns, kinds))
    if _library(table) == "polars":
        return _from_polars(table, what, kinds)
    return _from_pandas(table, what, columns, kinds)


def _from_pandas(table: Any, what: str, columns: list[Any], kinds: list[Any]) -> np.ndarray:
    missing = np.atleast_1d(np.asarray(table.isna().sum(), np.int64))
    if missing.any():
        raise DataError(_missing_message(table, what, missing))
    common: Any = np.dtype(np.float64)
    if len(set(kinds)) == 1:
        narrow = [
            np.dtype(getattr(dtype, "numpy_dtype", None) or _subtype(dtype)) for _, dtype in columns
        ]
        common = np.result_type(*narrow)
        if kinds[0] == "i" and common.kind == "f":
            # Signed and unsigned integers of 64 bits would become floats.
            for position in np.flatnonzero([dtype == np.uint64 for dtype in narrow]):
                name, column = columns[position][0], table.iloc[:, position]
                check_unsigned(column.to_numpy(np.uint64), f"{what}'s column {name!r}")
            common = np.dtype(np.int64)
    elif "c" in kinds:
        common = np.dtype(np.complex128)
    return np.asarray(table.to_numpy(common))


def _subtype(dtype: Any) -> Any:
    """Return the dtype of NumPy of a dtype of pandas, as of sparse columns."""
    return getattr(dtype, "subtype", dtype)


def _from_polars(table: Any, what: str, kinds: list[Any]) -> np.ndarray:
    series = list(table.get_columns()) if hasattr(table, "columns") else [table]
    missing = np.array([column.null_count() for column in series])
    if missing.any():
        raise DataError(_missing_message(table, what, missing))
    unequal = len({column.dtype for column in series}) > 1
    if not unequal:
        return np.asarray(table.to_numpy())
    arrays = [column.to_numpy() for column in series]
    wide = {"i": np.int64, "b": np.bool_}.get(kinds[0], np.float64)
    common = wide if len(set(kinds)) == 1 else np.float64
    if common is np.int64:
        for column, array in zip(series, arrays, strict=True):
            check_unsigned(array, f"{what}'s column {column.name!r}")
    return np.column_stack([array.astype(common) for array in arrays])


def _kind(dtype: Any, *, is_series: bool) -> str | None:
    """Return "b", "i", "f" or "c" for a dtype of numbers, None for another."""
    if hasattr(dtype, "is_numeric"):  # polars
        return _polars_kind(dtype, is_series=is_series)
    kind = getattr(dtype, "kind", "O")
    return {"u": "i"}.get(kind, kind) if kind in _NUMERIC_KINDS else None


def _polars_kind(dtype: Any, *, is_series: bool = True) -> str | None:
    inner = getattr(dtype, "inner", None)
    if inner is not None and type(dtype).__name__ == "Array":
        return _polars_kind(inner) if is_series else None  # the matrix that a Series is
    if dtype.is_decimal() or str(dtype) in ("Int128", "UInt128"):
        return None
    if str(dtype) == "Boolean":
        return "b"
    return "i" if dtype.is_integer() else "f" if dtype.is_float() else None


def _foreign_message(table: Any, what: str, columns: list[Any], kinds: list[Any]) -> str:
    foreign = [column for column, kind in zip(columns, kinds, strict=True) if kind is None]
    parts = [f"column {name!r} of dtype {dtype}" for name, dtype in foreign[:_LISTED]]
    if not hasattr(table, "columns"):
        parts = [f"dtype {foreign[0][1]}"]
    elif len(foreign) > _LISTED:
        parts.append(f"{len(foreign) - _LISTED} more")
    encoders = "pandas.get_dummies, or .cat.codes"
    if _library(table) == "polars":
        encoders = "to_dummies, or .to_physical() of Categorical and Enum"
    return not_numbers_message(what, ", ".join(parts), encoders)


def not_numbers_message(
    what: str, listed: str, encoders: str = "pandas.get_dummies, or .cat.codes"
) -> str:
    """Return the message about text, categories or objects in an array."""
    cast = ".cast" if "physical" in encoders else ".astype"
    return (
        f"{what} has {listed}; expected numbers. Encode text and categories first ({encoders}), "
        f"give objects a dtype with {cast}, and pad rows of different lengths"
    )


def _missing_message(table: Any, what: str, counts: np.ndarray) -> str:
    if hasattr(table, "columns"):
        names = list(table.columns)
        listed = listed_counts((f"column {names[n]!r}", counts[n]) for n in np.flatnonzero(counts))
    else:
        listed = f"{int(counts.sum())} of {len(table)}"
    fill = "fill_null, fill_nan" if _library(table) == "polars" else "fillna"
    return (
        f"{what} has missing values: {listed}; fill them ({fill}) or drop these rows, or pass a "
        "NumPy array with NaN if net and loss handle it"
    )


def listed_counts(counts: Iterator[tuple[str, Any]]) -> str:
    """Return counts by column as text, the first few of them."""
    parts = [f"{int(count)} in {column}" for column, count in counts]
    more = len(parts) - _LISTED
    return ", ".join(parts[:_LISTED]) + (f", and in {more} more columns" if more > 0 else "")
