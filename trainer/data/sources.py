"""Data sources: what users pass as data, converted to an iterable of batches.

All data becomes a `Source`. A batch is what the user's loader yields, or a list
`[features, targets]` or `[features, targets, sample_weight]` if fitorch makes the batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fitorch.errors import DataError

from .arrays import (
    ROLES,
    as_columns,
    as_mapping,
    collect_hint,
    common_length,
    is_array,
    is_in_memory,
    is_sparse,
)
from .collate import check_format
from .column_source import ColumnSource
from .dataset import DatasetSource, SampledSource
from .in_memory import MemorySource, dataset_source, ordered_source, recognize
from .lazy import has_lazy, is_lazy, lazy_columns, of_libraries
from .loader import LoaderSource, length
from .rank_split import ALONE, PassLength, RankShard
from .ready import Ready, batch_dataset_source
from .recognition import (
    is_batch_dataset,
    is_list,
    is_sequence_of_samples,
    looks_like_samples,
    warn_of_list,
)
from .rereading import Mark
from .sampling import Order
from .streams import Stream
from .user_loader import UserLoaderSource, recognize_samples


class Source(Protocol):
    """Protocol of objects that yield the batches of passes over data."""

    @property
    def steps(self) -> int | None:
        """The number of batches in a pass, None if it is unknown."""
        ...

    @property
    def samples(self) -> int | None:
        """The number of samples in a pass, None if it is unknown."""
        ...

    @property
    def smallest_batch(self) -> int | None:
        """The number of samples in the smallest batch of a pass, None if it is unknown."""
        ...

    @property
    def pass_length(self) -> PassLength:
        """The length of a pass, independent of the number of processes."""
        ...

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Return the batches of a pass, from batch `start` after `behind` units of the pass on."""
        ...

    def to(self, device: torch.device, *, resident: bool = True) -> Source:
        """Return the source with batches on `device`."""
        ...

    @property
    def order_owners(self) -> list[Any]:
        """Objects with state that determines the order, apart from seed and global generators."""
        ...

    @property
    def reading_owners(self) -> list[Any]:
        """Objects with generators from which the reading of samples draws."""
        ...

    @property
    def stateful(self) -> Any:
        """The object whose `state_dict` has the position in a pass, or None."""
        ...

    def rewind(self, state: object) -> None:
        """Restore the state of `stateful` in the middle of a pass."""
        ...

    def served(self) -> Tensor | list[int]:
        """Return the first sample numbers of the last batch, if they are known.

        They may lie on a device: reading them waits.
        """
        ...

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return the sample numbers of a batch of a pass, if they are known without reading it."""
        ...

    remembers: bool  # whether checkpoints are saved, so that a mark may be asked for

    def mark(self) -> Mark | None:
        """Return what identifies the last batch if a resumed pass reads earlier batches again."""
        ...

    def last_skipped(self) -> Any:
        """Return the last batch of this process that a resumed pass has skipped, or None."""
        ...

    def expect(self, mark: Mark | None) -> None:
        """Set the mark that the last skipped batch of the next pass should have."""

    @property
    def exhausted(self) -> bool:
        """Whether the last batch is known to be the end of the pass."""
        ...

    @property
    def by_share(self) -> bool:
        """Whether each process reads a share of the user's stream that it has chosen itself."""
        ...

    def verify(self) -> None:
        """Check that all processes have read the same batches; a collective call."""

    def refresh(self) -> None:
        """Look at the user's data again before a pass: a callback may have changed it."""

    def first_batch(self) -> Any:
        """Return the first batch of a pass, None if reading it would leave a trace."""
        ...

    def close(self) -> None:
        """End the worker processes of the source."""
        ...


@dataclass(frozen=True, slots=True)
class Batching:
    """Settings for data that is not in batches already.

    Args:
        batch_size: The number of samples in a batch of one process; None if the data consists of
            batches.
        shuffle: Whether to draw a new order for each pass.
        seed: The seed from which the orders are derived.
        floating: The dtype for float64 of NumPy and pandas.
        num_workers: The number of processes that read samples of a Dataset, or "auto".
        share: The shard of this process.
    """

    batch_size: int | None = 32
    shuffle: bool = False
    seed: int = 0
    floating: torch.dtype = torch.float32
    num_workers: int | str = "auto"
    share: RankShard = ALONE

    def order(self, samples: int) -> Order:
        """Return the order of `samples` samples."""
        share = self.share
        return Order(
            samples, self.batch_size or 1, self.shuffle, self.seed, share.rank, share.world
        )


def as_source(data: Any, name: str, batching: Batching) -> Source:
    """Return a source for the data that a user passed.

    Args:
        data: The data.
        name: The name of the argument, for messages.
        batching: The settings for data that is not in batches.

    Raises:
        TypeError: `data` has an unsupported type.
        DataError: `data` is empty, or its parts have different lengths.
    """
    source = _as_source(data, name, batching)
    if source.steps == 0 or source.samples == 0:
        raise DataError(_empty_data(data, name, source, batching))
    return source


def _as_source(data: Any, name: str, batching: Batching) -> Source:
    if isinstance(data, DataLoader):
        # Tensors in memory come first: they are gathered a batch at a time, with the same bits.
        return recognize(data, batching.share) or _loader_source(data, name, batching)
    if isinstance(data, IterableDataset):
        stream = Stream(data, batching.batch_size, name, batching.floating)
        return _iterable_source(stream, name, batching)
    if _is_dataset(data, batching):
        return _dataset_source(data, name, batching)
    if is_arrays(data):
        return memory_source(data, name, batching)
    # A list of arrays could be several inputs, or inputs and targets.
    if isinstance(data, list) and data and all(is_array(x) or is_sparse(x) for x in data):
        message = (
            f"{name} is a list of arrays; pass a tuple (x, y), or ((x1, x2), y) for two inputs"
        )
        raise TypeError(message)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        if is_list(data) and batching.batch_size is not None:
            warn_of_list(data, name)
        return _iterable_source(data, name, batching)
    message = (
        f"{name} is a {type(data).__name__}; expected a DataLoader, a Dataset, (x, y) or "
        "(x, y, sample_weight) of tensors, arrays or DataFrames, or an iterable of batches"
        f"{collect_hint(data)}"
    )
    raise TypeError(message)


def _is_dataset(data: object, batching: Batching) -> bool:
    """Return whether data is a map-style dataset, or a list of samples."""
    if isinstance(data, Dataset) or is_sequence_of_samples(data):
        return True
    return batching.batch_size is not None and is_list(data) and looks_like_samples(data)


def is_arrays(data: object) -> bool:
    """Return whether data is an array, or a tuple or mapping of them."""
    if is_lazy(data):
        return True
    if isinstance(data, Mapping):
        return is_in_memory(data) or (has_lazy(data) and len(data.keys()) > 0)
    return isinstance(data, tuple) or is_array(data)


def memory_source(data: Any, name: str, batching: Batching) -> Source:
    """Return a source of arrays: `(x, y[, sample_weight])`, a mapping of columns, or x alone.

    Arrays on disk are read batch by batch.

    Raises:
        ValueError: `batch_size` is None.
    """
    if batching.batch_size is None:
        message = (
            f"batch_size=None means that {name} consists of batches, but it is a "
            f"{type(data).__name__} of arrays; pass the number of samples in a batch"
        )
        raise ValueError(message)
    if has_lazy(data):
        dataset = lazy_columns(data, name, batching.floating)
        order, workers = batching.order(len(dataset)), batching.num_workers
        kind = ColumnSource if of_libraries(dataset.columns) else DatasetSource
        return kind(dataset, order, name, batching.floating, workers, Ready())
    if isinstance(data, Mapping):
        columns = as_mapping(data, name, batching.floating)
        return ordered_source(columns, batching.order(common_length(columns, name)))
    tensors = as_columns(data, name, batching.floating)
    lengths = dict(zip(ROLES, tensors, strict=False))
    return ordered_source(tensors, batching.order(common_length(lengths, name)))


def _loader_source(loader: DataLoader[Any], name: str, batching: Batching) -> LoaderSource:
    if recognize_samples(loader):
        seed, floating = batching.seed, batching.floating
        return UserLoaderSource(loader, name, seed, floating, batching.share)
    return _iterable_source(loader, name, batching)


def _iterable_source(loader: Iterable[Any], name: str, batching: Batching) -> LoaderSource:
    return LoaderSource(loader, name, batching.floating, batching.share, batching.seed)


def _dataset_source(dataset: Any, name: str, batching: Batching) -> Source:
    """Return a source for a map-style dataset; plain tensors are gathered by index."""
    samples = length(dataset)
    if samples is None:
        message = f"{name} is a {type(dataset).__name__} without a length; define __len__"
        raise TypeError(message)
    check_format(dataset, name)
    order = batching.order(samples)
    if batching.batch_size is None or is_batch_dataset(dataset):
        return batch_dataset_source(dataset, order, name, batching.floating, batching.num_workers)
    # A TensorDataset needs no reading by sample.
    source = dataset_source(dataset, order)
    if source is not None:
        return source
    return DatasetSource(dataset, order, name, batching.floating, batching.num_workers)


def _empty_data(data: object, name: str, source: Source, batching: Batching) -> str:
    role = {"train_data": "the training data", "val_data": "the validation data"}.get(name, "it")
    if isinstance(data, DataLoader):
        # These two settings can leave a pass without a batch.
        size, drop_last = data.batch_size, data.drop_last
    else:
        size, drop_last = batching.batch_size, False
    return (
        f"{name} is empty: {role} has {source.samples or 0} samples, too few for a batch "
        f"with batch_size={size} and drop_last={drop_last}"
    )


def check_enough(source: Source, name: str, processes: int) -> None:
    """Check that there are at least as many samples or batches as processes.

    Raises:
        DataError: There are fewer.
    """
    shares_samples = isinstance(source, (MemorySource, SampledSource)) and source.samples
    # What an iterable yields in this process may be a share of its own.
    units = None if type(source) is LoaderSource else source.pass_length.units
    parts = source.samples if shares_samples else units
    if parts is not None and parts < processes:
        unit = "samples" if shares_samples else "batches"
        message = (
            f"{name} has {parts} {unit}, fewer than the {processes} processes that share them; "
            "use fewer processes"
        )
        raise DataError(message)
