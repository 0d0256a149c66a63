"""In-memory sources: batches are gathered from tensors by index, a whole batch per call.

They serve tensors, and a `DataLoader` over a `TensorDataset` (or `Subset`s of one). The loader's
sampler determines the order, and the batches are bit for bit those of the loader, but samples are
not collated one by one, and there are no worker processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, default_collate

from fitorch.devices.accelerators import HOST, is_host
from fitorch.devices.capabilities import pins
from fitorch.devices.copies import Sender
from fitorch.devices.memory import free_memory
from fitorch.errors import DataError
from fitorch.internals.torch import version_of
from fitorch.tree import byte_count, leaves, map_tensors

from .gathering import gatherer, mover
from .indices import LoaderIndices, OrderIndices
from .rank_split import ALONE, PassLength, RankShard
from .rng_state import owners_of, undisturbed_owners
from .sampling import Order
from .tensor_datasets import tensors_behind

_SHARE_AT_ONCE, _SHARE = 1 / 16, 1 / 2  # of the free memory that data may take on a device

_SMALL = 2**28  # bytes that data may take on a device whose free memory is not known


@dataclass(slots=True)
class MemorySource:
    """Batches of tensors in memory.

    Args:
        tensors: Nested tensors with one entry per sample along dimension 0; a batch has the same
            structure.
        indices: The sample numbers of each batch of a pass.
        dataset: The user's dataset of the tensors, which is looked at again before each pass, or
            None.
        last: The sample numbers of the last batch.
        device: The device of the batches; None is that of the tensors.
        resident: Whether the tensors may move to the device as a whole.
    """

    tensors: Any
    indices: OrderIndices | LoaderIndices
    dataset: Any = None
    last: Tensor | None = None
    device: torch.device | None = None
    resident: bool = False
    _begun: bool = False  # whether a pass over the data has begun
    _origin: Any = None  # the tensors of the user
    _seen: Any = None  # their versions
    remembers: bool = False  # no batch is read again
    _opened: tuple[int, int, int] = (0, 0, 0)  # pass, start and `behind` of the last `batches`

    def __post_init__(self) -> None:
        self._origin, self._seen = self.tensors, _versions(self.tensors)

    @property
    def steps(self) -> int | None:
        """The number of batches in a pass, None if it is unknown."""
        return self.indices.rounds

    @property
    def samples(self) -> int | None:
        """The number of samples in a pass, None if it is unknown."""
        return self.indices.samples

    @property
    def smallest_batch(self) -> int | None:
        """The number of samples in the smallest batch of a pass, None if it is unknown."""
        return self.indices.smallest_batch

    @property
    def pass_length(self) -> PassLength:
        """The length of a pass, independent of the number of processes."""
        return self.indices.pass_length

    def refresh(self) -> None:
        """Look at the dataset again: a callback may have assigned other tensors or indices.

        Raises:
            DataError: It no longer holds plain tensors.
        """
        if self.dataset is None:
            self._follow(self._origin)
            return
        contents = tensors_behind(self.dataset)
        if contents is None:
            message = (
                f"the {type(self.dataset).__name__} had plain tensors at the beginning of the fit, "
                "but no longer has them; assign tensors of the same kind"
            )
            raise DataError(message)
        tensors, subset = contents
        self._follow(list(tensors))
        self.indices.adopt(subset, len(self.dataset))

    def _follow(self, tensors: Any) -> None:
        """Take the tensors over if they are others, or if torch has changed them in place."""
        versions = _versions(tensors)
        # A copy on a device does not follow changes of the tensors on the host.
        if versions != self._seen:
            self.tensors = self._origin = tensors
            self._seen = versions

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Return the batches of a pass from batch `start` on."""
        self._opened = pass_index, start, behind
        self._settle()
        home = next(leaves(self.tensors)).device
        if self.device is None or home == self.device:
            return self._gathered(home, pass_index, start, behind)
        # From pinned memory, the copy of the next batch runs while the device computes.
        pinned = is_host(home) and pins(self.device)
        batches = self._gathered(home, pass_index, start, behind, pinned=pinned)
        return self._sent(batches)

    def to(self, device: torch.device, *, resident: bool = True) -> MemorySource:
        """Let the source yield its batches on `device`.

        Args:
            device: The device.
            resident: Whether the tensors may move there as a whole. A few do so at once; others
                after the first pass, if there is room beside what the training needs.
        """
        self.device, self.resident = device, resident and not is_host(device)
        return self

    def _settle(self) -> None:
        """Move the tensors to the device if there is room; gathering there saves a copy a batch."""
        homes = {leaf.device for leaf in leaves(self.tensors)}
        if len(homes) > 1:
            # Batches are gathered where all tensors are: on the device, where some are already.
            target = self.device or HOST
            self.tensors = map_tensors(lambda tensor: tensor.to(target), self.tensors)
        home = next(leaves(self.tensors)).device
        if self.device is None or not self.resident or home == self.device:
            return
        # Only after a pass it is known what the net, its gradients and the optimizer take.
        begun, self._begun = self._begun, True
        if fits(self.tensors, self.device, begun):
            device = self.device
            self.tensors = map_tensors(lambda tensor: tensor.to(device), self.tensors)

    def first_batch(self) -> Any:
        """Return the first batch of a pass; the order of later passes does not change."""
        begun = self._begun
        with undisturbed_owners(self.order_owners):
            batch = next(self.batches(0))
        self._begun = begun
        return batch

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return the sample numbers of a batch; a sampler of the user's would draw other ones."""
        if isinstance(self.indices, LoaderIndices):
            return []
        indices = self.indices(pass_index, position)
        return next(indices, torch.empty(0, device=HOST)).tolist()

    def last_skipped(self) -> Any:
        """Return the last batch of this process that a resumed pass has skipped, or None."""
        _, start, behind = self._opened
        if not start and not behind:
            return None
        index = self.indices.before(*self._opened)
        home = next(leaves(self.tensors)).device
        batch = gatherer(self.tensors)(index.to(home))
        target = self.device or home
        return map_tensors(lambda tensor: tensor.to(target), batch)

    def mark(self) -> None:
        """None: batches are gathered by the numbers of their samples."""
        return

    def expect(self, mark: object) -> None:
        """Do nothing: batches are not read again."""

    @property
    def exhausted(self) -> bool:
        """False: the position determines the rest of a pass."""
        return False

    @property
    def by_share(self) -> bool:
        """False: the samples of each process follow from the order."""
        return False

    def verify(self) -> None:
        """Do nothing: each process gathers the samples of its own batches."""

    def close(self) -> None:
        """Do nothing: there are no worker processes."""

    @property
    def stateful(self) -> None:
        """None: the position in a pass does not depend on state."""
        return None

    def rewind(self, state: object) -> None:
        """Do nothing: there is no such state."""

    @property
    def order_owners(self) -> list[Any]:
        """Objects with state that determines the order: the user's samplers, if there are any."""
        indices = self.indices
        return [*owners_of(indices.loader), indices] if isinstance(indices, LoaderIndices) else []

    @property
    def reading_owners(self) -> list[Any]:
        """Objects from which reading draws random numbers: none."""
        return []

    def _gathered(
        self,
        home: torch.device,
        pass_index: int,
        start: int,
        behind: int,
        *,
        pinned: bool = False,
    ) -> Iterator[Any]:
        gather = gatherer(self.tensors, pinned=pinned)
        # Draws the order, here and not with the first batch, so that it depends on the state of
        # the generators at the beginning of the pass.
        indices = self.indices(pass_index, start, mover(home), behind)
        return self._gather(indices, gather)

    def _gather(self, indices: Iterator[Tensor], gather: Callable[[Tensor], Any]) -> Iterator[Any]:
        for index in indices:
            # This is a reference, not a list: reading it from a device would wait.
            self.last = index
            yield gather(index)

    def _sent(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches on the device; the next one is gathered and sent before one is yielded."""
        assert self.device is not None
        taken: deque[Tensor | None] = deque()

        def noted() -> Iterator[Any]:
            for batch in batches:
                taken.append(self.last)
                yield batch

        for batch in Sender(self.device).batches(noted(), ahead=True):
            self.last = taken.popleft()
            yield batch

    def served(self, count: int = 3) -> Tensor | list[int]:
        """Return the first sample numbers of the last batch, which may lie on a device."""
        return [] if self.last is None else self.last[:count]


def ordered_source(tensors: Any, order: Order) -> MemorySource:
    """Return a source of `tensors` in the order of an `Order`."""
    return MemorySource(tensors, OrderIndices(order))


def dataset_source(dataset: object, order: Order) -> MemorySource | None:
    """Return a source for a dataset of plain tensors, in the order of an `Order`; else None."""
    contents = tensors_behind(dataset)
    if contents is None:
        return None
    tensors, subset = contents
    return MemorySource(list(tensors), OrderIndices(order, subset), dataset)


def recognize(loader: DataLoader[Any], share: RankShard = ALONE) -> MemorySource | None:
    """Return an in-memory source for a loader over in-memory tensors, None for other loaders.

    It supports a plain `DataLoader` with the default collate function and automatic batching over a
    `TensorDataset`, or over `Subset`s of one, with any sampler of numbers.
    """
    plain = (
        type(loader) is DataLoader
        and loader.collate_fn is default_collate
        and loader.batch_sampler is not None
        and not isinstance(loader.sampler, BatchSampler)  # its samples are batches
        and loader.worker_init_fn is None
    )
    contents = tensors_behind(loader.dataset) if plain else None
    if contents is None:
        return None
    tensors, subset = contents
    # The same draws from the generators as by the loader itself.
    return MemorySource(list(tensors), LoaderIndices(loader, subset, share), loader.dataset)


def fits(tensors: object, device: torch.device, trained: bool) -> bool:
    """Return whether `tensors` take at most a share of the memory of `device`.

    Args:
        tensors: The tensors.
        device: The device.
        trained: Whether a net has trained there: then half of what it has left may be taken.
    """
    free = free_memory(device, at_peak=trained)
    share = _SHARE if trained else _SHARE_AT_ONCE
    # Without an answer, little data is no risk, whatever the device is.
    return byte_count(tensors) <= (_SMALL if free is None else free * share)


def _versions(tensors: Any) -> list[tuple[int, int]]:
    """Return what changes if tensors are replaced, or changed in place by torch."""
    return [(id(tensor), version_of(tensor)) for tensor in leaves(tensors)]
