"""Names of the columns of DataFrames, which a trained net expects in the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from fitorch.errors import DataError

from .tables import is_arrow, is_table

Names = dict[str, tuple[Any, ...]]


def column_names(data: Any) -> Names:
    """Return the names of the columns of each DataFrame in `data`, by its place.

    Args:
        data: What a user passes as data: `(x, y)`, x alone, or a mapping of columns.
    """
    if isinstance(data, list):
        return {}  # of samples or batches
    parts = data if isinstance(data, tuple) else (data,)
    roles = zip(("x", "y"), parts, strict=False)
    return {place: names for role, part in roles for place, names in _named(part, role)}


def check_columns(known: Names, data: Any, name: str) -> None:
    """Check that DataFrames have the columns, in the order, of those that the net was trained on.

    Args:
        known: The names of the columns in training.
        data: What the user passes; arrays have no names, and pass.
        name: The name of the argument, for messages.

    Raises:
        DataError: A column is missing, is additional, or stands in another place.
    """
    for place, names in column_names(data).items():
        trained = known.get(place, names)
        if names == trained:
            continue
        missing = [column for column in trained if column not in names]
        added = [column for column in names if column not in trained]
        differences = [
            f"lacks {_first(missing)}" if missing else "",
            f"has additional {_first(added)}" if added else "",
            "" if missing or added else f"has them in the order {_first(names)}",
        ]
        message = (
            f"{name}'s {place} has other columns than the net was trained on: it "
            f"{' and '.join(filter(None, differences))}; pass the columns {_first(trained)}, in "
            "this order"
        )
        raise DataError(message)


def check_order(known: Names, data: Any) -> None:
    """Check that training continues with the columns in their order; other columns are allowed.

    Raises:
        DataError: A DataFrame has the columns of an earlier fit in another order.
    """
    for place, names in column_names(data).items():
        trained = known.get(place, names)
        if names != trained and Counter(names) == Counter(trained):
            check_columns({place: trained}, data, "train_data")


def _first(names: Any) -> str:
    return str(list(names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _named(value: Any, place: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield place and columns of the DataFrames with names in nested mappings and sequences."""
    if hasattr(value, "nnz"):
        return  # a sparse matrix, which may be a mapping
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _named(part, f"{place}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for number, part in enumerate(value):
            yield from _named(part, f"{place}[{number}]")
    elif names := _names_of(value):
        yield place, names


def _names_of(value: Any) -> tuple[Any, ...]:
    """Return the names of the columns of a table, () if it does not have names."""
    if is_arrow(value):
        return tuple(value.column_names)
    if not (is_table(value) and hasattr(value, "columns")):
        return ()
    names = tuple(value.columns)
    # pandas numbers the columns of an array, which are no names.
    return () if names == tuple(range(len(names))) else names
