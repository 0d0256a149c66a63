"""Arrays on disk (h5py, zarr, memory maps, dask, safetensors), and sparse matrices, by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.errors import DataError
from fitorch.tree import map_leaves, rebuild_sequence

from .arrays import ROLES, common_length, is_sparse, to_tensors

_AS_THEY_ARE = ("float16", "float32", "int64", "bool")
_UNCHANGED = frozenset(map(np.dtype, _AS_THEY_ARE))  # in the byte order of this machine

# Libraries whose arrays are read when they are needed, and libraries whose arrays lie in memory.
_ON_DISK = ("numpy", "h5py", "zarr", "dask", "fitorch")
_IN_MEMORY = ("numpy", "torch", "pandas", "polars", "pyarrow", "jax", "jaxlib", "cupy", "xarray")


def is_lazy(value: object) -> bool:
    """Return whether a value is an array that is not in memory as a whole, or a sparse one."""
    if isinstance(value, LazyArray) or is_sparse(value):
        return True
    if isinstance(value, np.memmap):
        # torch reads these in place, whatever their role; others would be converted as a whole.
        as_they_are = value.dtype.name in _AS_THEY_ARE and value.dtype.isnative
        return not (as_they_are and value.flags.c_contiguous)
    if isinstance(value, (Tensor, np.ndarray, Mapping, str, bytes)):
        return False
    library = type(value).__module__.partition(".")[0]
    has_shape = hasattr(value, "shape") and hasattr(value, "dtype")
    readable = hasattr(value, "__getitem__") and (has_shape or hasattr(value, "get_shape"))
    return readable and library not in _IN_MEMORY


def has_lazy(value: object) -> bool:
    """Return whether a nested structure has an array on disk, or a sparse one."""
    if is_sparse(value):
        return True  # also a mapping, in the format dok
    if isinstance(value, Mapping):
        return any(map(has_lazy, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(has_lazy, value))
    return is_lazy(value)


def of_libraries(columns: object) -> bool:
    """Return whether known libraries read all arrays on disk, not classes of the user's own."""
    if isinstance(columns, Mapping):
        return all(map(of_libraries, columns.values()))
    if isinstance(columns, (tuple, list)):
        return all(map(of_libraries, columns))
    return not isinstance(columns, LazyArray) or columns.library in _ON_DISK


class LazyArray:
    """An array on disk whose rows are read when they are needed.

    Args:
        array: The array of h5py, zarr, dask or NumPy, or a slice of a safetensors file.
        what: Its name for messages, such as "train_data's x".
        floating: The dtype for float64 of NumPy.
        labels: Whether integers become int64.
        rows: The rows of the array that count.
    """

    def __init__(
        self, array: Any, what: str, floating: torch.dtype, labels: bool, rows: range | None = None
    ) -> None:
        self._array, self._what, self._floating, self._labels = array, what, floating, labels
        shape = array.shape if hasattr(array, "shape") else array.get_shape()
        self._rows = range(int(shape[0])) if rows is None and shape else rows or range(0)
        self.shape = torch.Size((len(self._rows), *map(int, shape[1:])))
        # An array of one number has no rows, which `common_length` refuses.
        self._dims = len(shape)
        self._picks = not hasattr(array, "get_shape")  # whether it takes lists of row numbers

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self._dims

    @property
    def library(self) -> str:
        """The library of the array."""
        return type(self._array).__module__.partition(".")[0]

    def __getitem__(self, places: slice) -> LazyArray:
        """Return some consecutive rows, which are not read."""
        rows = self._rows[places]
        return LazyArray(self._array, self._what, self._floating, self._labels, rows)

    def read(self, rows: Rows) -> Tensor:
        """Return rows as a tensor."""
        read = self._converted(self._read_sorted(rows.numbers + self._rows.start))
        return read if rows.back is None else read[rows.back]

    def _converted(self, rows: Any) -> Tensor:
        if isinstance(rows, Tensor):
            return rows
        array = np.asarray(rows)
        if array.dtype in _UNCHANGED and array.flags.carray:
            return torch.from_numpy(array)
        tensor: Tensor = to_tensors(array, self._what, self._floating, labels=self._labels)
        return tensor

    def _read_sorted(self, numbers: np.ndarray) -> Any:
        first, last = int(numbers[0]), int(numbers[-1])
        if last - first == len(numbers) - 1:
            return self._array[first : last + 1]
        if self._picks:
            try:
                return self._array[numbers]
            except (TypeError, IndexError, NotImplementedError):
                self._picks = False  # it takes slices alone
        parts = [self._array[begin:end] for begin, end in _runs(numbers)]
        return torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch as files are read: from front to back, each once.

    Args:
        numbers: Their numbers, increasing: h5py takes nothing else.
        back: The place in `numbers` of each row of the batch; None if they are the same.
    """

    numbers: np.ndarray
    back: Tensor | None

    @classmethod
    def of(cls, numbers: np.ndarray) -> Rows:
        """Return the rows for numbers in any order."""
        if (numbers[1:] > numbers[:-1]).all():
            return cls(numbers, None)
        unique, inverse = np.unique(numbers, return_inverse=True)
        return cls(unique, torch.from_numpy(inverse))


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of consecutive numbers."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
        yield int(run[0]), int(run[-1]) + 1


class SparseRows:
    """A sparse matrix of SciPy whose rows become dense when they are read.

    Args:
        matrix: The matrix, in any format.
        what: Its name for messages.

    Raises:
        DataError: It does not have two dimensions.
    """

    def __init__(self, matrix: Any, what: str) -> None:
        if len(matrix.shape) != 2:
            message = f"{what} is sparse of shape {matrix.shape}; expected a matrix (N, features)"
            raise DataError(message)
        self._rows = matrix.tocsr()  # the format with fast access to rows
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def __getitem__(self, places: Any) -> np.ndarray:
        """Return some rows as a dense array."""
        return np.asarray(self._rows[places].toarray())


class LazyColumns:
    """A dataset of columns, some of which are on disk; it reads whole batches.

    Args:
        columns: A list `[x, y, sample_weight]` or a mapping of nested tensors and `LazyArray`s.
        samples: The number of samples.
    """

    def __init__(self, columns: Any, samples: int) -> None:
        self.columns, self._samples = columns, samples

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._samples

    def __getitem__(self, number: int) -> Any:
        """Return a sample."""
        return map_leaves(lambda part: part[0], self.read(np.array([number])), Tensor)

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        """Return a list with one batch."""
        return [self.read(np.asarray(numbers, np.int64))]

    def read(self, numbers: np.ndarray) -> Any:
        """Return the batch of some samples.

        Args:
            numbers: The numbers of the samples, int64, in any order.
        """
        rows, places = Rows.of(numbers), torch.from_numpy(numbers)

        def picked(column: Any) -> Tensor:
            return column.read(rows) if isinstance(column, LazyArray) else column[places]

        return map_leaves(picked, self.columns, (Tensor, LazyArray))


def lazy_columns(data: Any, name: str, floating: torch.dtype) -> LazyColumns:
    """Return a dataset of `(x, y[, sample_weight])`, a mapping of columns, or x alone.

    Raises:
        DataError: The columns have different lengths, or are no arrays of numbers.
    """
    if isinstance(data, Mapping) and not is_sparse(data):
        columns: Any = {
            key: _opened(part, f"{name}[{key!r}]", floating, labels=key == "labels")
            for key, part in data.items()
        }
        return LazyColumns(columns, _length(columns, name))
    parts = data if isinstance(data, tuple) else (data,)
    parts = parts[:2] if len(parts) == 3 and parts[2] is None else parts
    columns = [
        _opened(part, f"{name}'s {role}", floating, labels=role == "y")
        for part, role in zip(parts, ROLES, strict=False)
    ]
    return LazyColumns(columns, _length(dict(zip(ROLES, columns, strict=False)), name))


def _length(columns: Mapping[str, Any], name: str) -> int:
    # Empty tensors of the same shapes stand for arrays on disk: no memory is touched.
    shapes = map_leaves(
        lambda part: torch.empty(part.shape if part.dim() else (), device="meta"),
        dict(columns),
        (Tensor, LazyArray),
    )
    return common_length(shapes, name)


def _opened(value: Any, what: str, floating: torch.dtype, *, labels: bool) -> Any:
    """Return nested arrays with those on disk as `LazyArray`s, and the others as tensors."""
    if is_sparse(value):
        return LazyArray(SparseRows(value, what), what, floating, labels)
    if isinstance(value, Mapping):
        return {
            key: _opened(part, f"{what}[{key!r}]", floating, labels=labels)
            for key, part in value.items()
        }
    if isinstance(value, (tuple, list)):
        parts = [_opened(v, f"{what}[{i}]", floating, labels=labels) for i, v in enumerate(value)]
        return rebuild_sequence(value, parts)
    if isinstance(value, LazyArray):
        return value
    if is_lazy(value):
        return LazyArray(value, what, floating, labels)
    return to_tensors(value, what, floating, labels=labels)
