"""What users pass -> batches.

Everything becomes a *source*: something with `batches(pass_index, start)`, `steps` (batches in a
pass, where known) and `smallest_batch`. A batch is what the user's loader gives, or a list
`[features, targets]` or `[features, targets, sample_weight]` where we batch ourselves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .arrays import array_leaves, common_length, is_array, is_in_memory, is_sparse, to_tensors
from .errors import DataError
from .memory import MemorySource, dataset_source, own_source, recognize
from .sampling import Order
from .structure import map_tensors

FORMS = "(features, targets), (features, targets, sample_weight), or a mapping"
_ROLES: tuple[str, ...] = ("x", "y", "sample_weight")


class Source(Protocol):
    """Where batches come from."""

    @property
    def steps(self) -> int | None:
        """Batches in a pass, None where that is not known beforehand."""
        ...

    @property
    def samples(self) -> int | None:
        """Samples in a pass, None where that is not known beforehand."""
        ...

    @property
    def smallest_batch(self) -> int | None:
        """Samples in the smallest batch of a pass, None where that is not known beforehand."""
        ...

    def batches(self, pass_index: int, start: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on."""
        ...

    def to(self, device: torch.device) -> Source:
        """Return the source whose batches lie on `device`."""
        ...

    def served(self) -> list[int]:
        """Return the first sample numbers of the batch served last, as far as known."""
        ...


@dataclass(frozen=True, slots=True)
class Batching:
    """How to make batches where that is ours to decide.

    Args:
        batch_size: Samples in a batch of one process.
        shuffle: Draw a new order for each pass.
        seed: What the orders follow from.
        floating: What float64 of NumPy and pandas becomes.
    """

    batch_size: int = 32
    shuffle: bool = False
    seed: int = 0
    floating: torch.dtype = torch.float32

    def order(self, samples: int) -> Order:
        """Return the order of `samples` samples."""
        return Order(samples, self.batch_size, self.shuffle, self.seed)


def as_source(data: Any, name: str, batching: Batching) -> Source:
    """Turn what a user passed as `name` into a source of batches.

    Raises:
        TypeError: `data` is of a kind that nothing can be made of.
        DataError: `data` is empty, or its parts have different lengths.
    """
    source = _as_source(data, name, batching)
    if source.steps == 0 or source.samples == 0:
        raise DataError(_empty(data, name, source, batching))
    return source


def _as_source(data: Any, name: str, batching: Batching) -> Source:
    if isinstance(data, DataLoader):
        return recognize(data) or LoaderSource(data, name, batching.floating)
    if isinstance(data, IterableDataset):
        loader = DataLoader(data, batch_size=batching.batch_size)
        return LoaderSource(loader, name, batching.floating)
    if isinstance(data, Dataset) or _is_sequence_of_samples(data):
        return _dataset_source(data, name, batching)
    if isinstance(data, tuple) or is_array(data) or is_sparse(data):
        return memory_source(data, name, batching)
    if isinstance(data, Mapping) and is_in_memory(data):
        return memory_source(data, name, batching)
    if isinstance(data, list) and data and all(is_array(item) for item in data):
        message = (
            f"{name} is a list of arrays; pass a tuple (x, y), or ((x1, x2), y) for two inputs"
        )
        raise TypeError(message)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return LoaderSource(data, name, batching.floating)
    message = (
        f"{name} is a {type(data).__name__}; expected a DataLoader, a Dataset, (x, y) or "
        "(x, y, sample_weight) of tensors, arrays or DataFrames, or an iterable of batches"
    )
    raise TypeError(message)


def memory_source(data: Any, name: str, batching: Batching) -> MemorySource:
    """Serve arrays: `(x, y)`, `(x, y, sample_weight)`, a mapping of columns, or x alone."""
    if isinstance(data, Mapping):
        columns = to_tensors(data, name, batching.floating, labels=True)
        return own_source(columns, batching.order(common_length(columns)))
    tensors = as_columns(data, name, batching.floating)
    lengths = dict(zip(_ROLES, tensors, strict=False))
    return own_source(tensors, batching.order(common_length(lengths)))


def as_columns(data: Any, name: str, floating: torch.dtype) -> list[Any]:
    """Turn `(x, y[, sample_weight])`, or x alone, into a list of (nested) tensors."""
    parts = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(parts) <= 3:
        message = f"{name} is a tuple of {len(parts)}; expected (x, y) or (x, y, sample_weight)"
        raise DataError(message)
    parts = parts[:2] if len(parts) == 3 and parts[2] is None else parts
    return [
        to_tensors(part, f"{name}'s {role}", floating, labels=role == "y")
        for part, role in zip(parts, _ROLES, strict=False)
    ]


def split_validation(data: Any, fraction: float, floating: torch.dtype) -> tuple[Any, Any]:
    """Cut the last `fraction` of the samples off, before any shuffling, for validation.

    Raises:
        ValueError: `data` is not in memory, or a part would be empty.
    """
    if not isinstance(data, tuple):
        message = (
            f"validation_split={fraction} cuts (x, y) of tensors, arrays or DataFrames, but "
            f"train_data is a {type(data).__name__}; pass val_data instead"
        )
        raise ValueError(message)  # noqa: TRY004 - the fraction does not go with this data
    columns = as_columns(data, "train_data", floating)
    samples = common_length(dict(zip(_ROLES, columns, strict=False)))
    cut = int(samples * (1 - fraction))
    if not 0 < cut < samples:
        message = (
            f"validation_split={fraction} of {samples} samples leaves {cut} for training and "
            f"{samples - cut} for validation; both need at least one"
        )
        raise ValueError(message)
    train = tuple(map_tensors(lambda tensor: tensor[:cut], column) for column in columns)
    return train, tuple(map_tensors(lambda tensor: tensor[cut:], column) for column in columns)


class LoaderSource:
    """Batches out of a user's loader, generator or other iterable, which is kept as it is.

    Args:
        loader: Gives batches.
        name: What to call it in an error, as "train_data".
        floating: What float64 of NumPy and pandas becomes, where batches are not tensors.
        order: Told before each pass which one it is, where the order of samples is ours.
    """

    smallest_batch: int | None = None

    def __init__(
        self,
        loader: Iterable[Any],
        name: str,
        floating: torch.dtype = torch.float32,
        order: _PassOrder | None = None,
    ) -> None:
        self.loader = loader
        self.name = name
        self.floating = floating
        self.steps = _length(loader)
        self.samples = _length(getattr(loader, "dataset", None))
        self._order = order
        self._device: torch.device | None = None

    def batches(self, pass_index: int, start: int = 0) -> Iterator[Any]:
        """Give the batches of a pass, from batch `start` on, read and left out up to there."""
        if self._order is not None:
            self._order.pass_index, self._order.start = pass_index, start
            start = 0
        batches = iter(self._placed(iter(self.loader)))
        for _ in range(start):
            next(batches, None)
        return batches

    def to(self, device: torch.device) -> LoaderSource:
        """Move each batch to `device`."""
        self._device = None if device.type == "cpu" else device
        return self

    def served(self) -> list[int]:
        """Return no sample numbers: a loader does not tell them."""
        return []

    def _placed(self, batches: Iterator[Any]) -> Iterator[Any]:
        try:
            for first in batches:
                batches = itertools.chain((first,), batches)
                if any(not isinstance(leaf, torch.Tensor) for leaf in array_leaves(first)):
                    batches = map(self._to_tensors, batches)
                yield from batches if self._device is None else map(self._move, batches)
        except RuntimeError as error:
            killed = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)", str(error))
            if killed is None:
                raise
            message = (
                f"a worker process (pid {killed[1]}) of {self.name} died "
                f"(num_workers={getattr(self.loader, 'num_workers', '?')}); it is often out of "
                "memory or of shared memory (/dev/shm): try fewer workers or a smaller batch"
            )
            raise DataError(message) from error

    def _to_tensors(self, batch: Any) -> Any:
        name = f"a batch of {self.name}"
        if isinstance(batch, tuple):
            return as_columns(batch, name, self.floating)
        return to_tensors(batch, name, self.floating, labels=True)

    def _move(self, batch: Any) -> Any:
        from accelerate.utils import send_to_device

        return send_to_device(batch, self._device, non_blocking=True)


class _PassOrder:
    """A batch sampler for torch's DataLoader that follows our order of samples."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.pass_index = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        return (index.tolist() for index in self.order.batches(self.pass_index, self.start))

    def __len__(self) -> int:
        return len(self.order)


def _dataset_source(dataset: Any, name: str, batching: Batching) -> Source:
    """Batch a map-style dataset in our order; one that holds plain tensors is gathered by index."""
    samples = _length(dataset)
    if samples is None:
        message = f"{name} is a {type(dataset).__name__} without a length; give it __len__"
        raise TypeError(message)
    if samples == 0:
        message = f"{name} is a {type(dataset).__name__} with 0 samples"
        raise DataError(message)
    order = batching.order(samples)
    found = dataset_source(dataset, order)
    if found is not None:
        return found
    sampler = _PassOrder(order)
    # A generator of its own: making an iterator must not draw from the global one.
    loader = DataLoader(dataset, batch_sampler=sampler, generator=torch.Generator().manual_seed(0))
    source = LoaderSource(loader, name, batching.floating, sampler)
    source.smallest_batch = order.smallest_batch
    return source


def _is_sequence_of_samples(data: Any) -> bool:
    """Say whether `data` is a map-style dataset that does not say so, as those of Hugging Face."""
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return sized and not isinstance(data, (Mapping, tuple, list, str, bytes)) and not is_array(data)


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except TypeError:
        return None


def _empty(data: Any, name: str, source: Source, batching: Batching) -> str:
    role = "training" if name == "train_data" else "validation"
    if isinstance(data, DataLoader):
        size, drop_last = data.batch_size, data.drop_last
    else:
        size, drop_last = batching.batch_size, False
    return (
        f"{name} is empty: the {role} data has {source.samples or 0} samples, which gives no batch "
        f"with batch_size={size} and drop_last={drop_last}"
    )
