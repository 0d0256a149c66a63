"""Sources over loaders, generators and other iterables of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from fitorch.devices.accelerators import is_host
from fitorch.devices.copies import Sender
from fitorch.errors import DataError
from fitorch.internals.torch import fetcher_of
from fitorch.internals.torchdata import stays_ended
from fitorch.randomness import derive_seed
from fitorch.tree import map_tensors

from .arrays import array_leaves, as_batch
from .indices import smallest_batch
from .plain_attributes import ChangedAttributes
from .process_stream import ProcessStream
from .rank_split import ALONE, PassLength, RankShard, with_common_randomness
from .reader_state import has_state, stateful
from .rereading import Mark, check_mark, skip, take_mark, with_state
from .rng_state import GeneratorHolder, owners_of, set_epoch
from .worker_failures import failed_worker_in, failed_workers, worker_failure_message


class LoaderSource:
    """Batches of a user's loader, generator or other iterable.

    Args:
        loader: An iterable of batches.
        name: The name of the data for messages, such as "train_data".
        floating: The dtype for float64 of NumPy and pandas, if batches are not tensors.
        share: The shard of this process: one batch of each round, all of which it must read.
        seed: The seed for random numbers that all processes draw alike while they read.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        name: str,
        floating: torch.dtype = torch.float32,
        share: RankShard = ALONE,
        seed: int = 0,
    ) -> None:
        self.loader = loader
        self.name = name
        self.floating = floating
        self._share, self._seed = share, seed
        self._stream = ProcessStream(name, share)
        self._last: Any = None  # the last batch, as the loader has made it
        self._expected: Mark | None = None
        self._skipped: list[Any] = []  # the last batch that the current pass has skipped
        self._fetcher: Any = None  # what reads the samples of a loader in this process
        self.remembers = False
        self._before: Any = None  # the random state before the last batch, if it is needed
        self._changes: ChangedAttributes | None = None
        self._measure(loader)
        self._device: torch.device | None = None
        self._rewound = False

    @property
    def _collates(self) -> bool:
        """Whether batches are new objects, which the loader does not use again."""
        collates = getattr(self.loader, "collates", None)  # of a `Stream`
        return makes_new_batches(self.loader) if collates is None else bool(collates)

    def refresh(self) -> None:
        """Ask the loader for its length again."""
        self._measure(self.loader)

    def _measure(self, loader: Any) -> None:
        self.pass_length = PassLength(length(loader), self._share.world)
        self.steps = self.pass_length.rounds()
        self.samples = length(getattr(loader, "dataset", None))
        smallest = smallest_batch(loader) if isinstance(loader, DataLoader) else None
        self.smallest_batch = self._share.smallest(smallest)

    @property
    def worker_count(self) -> int | str:
        """The number of worker processes, "?" if it is unknown."""
        return getattr(self.loader, "num_workers", "?")

    def batches(self, pass_index: int, start: int = 0, behind: int = 0) -> Iterator[Any]:
        """Return the batches of a pass from batch `start` on.

        Earlier batches are read again and skipped, unless the loader restored its own position.
        """
        # Datasets that shuffle by the epoch need the pass before their iterator is created.
        set_epoch(pass_index, getattr(self.loader, "dataset", None))
        if self._share.world > 1:
            return self._batches_of_rank(pass_index, start, behind)
        with stays_ended(self.loader if self._rewound else None):
            raw = iter(self.loader)
        batches = remaining(raw)
        self._fetcher = fetcher_of(raw)
        # Skipped batches are read, because only the iterator can move its own position.
        last = skip(batches, 0 if self._rewound else start + behind, self._expected)
        self._rewound = False
        self._compare(last)
        return self._iterate(batches, raw)

    def _batches_of_rank(self, pass_index: int, start: int, behind: int) -> Iterator[Any]:
        """Return the batches of this process, None in a round that has none for it."""
        seed = derive_seed(self._seed, "iterate", self.name, pass_index)
        # Every process reads with the same random numbers, in case all of them read all batches.
        raw = with_common_randomness(_iterated(self.loader), seed)
        sized = self.pass_length.units is not None
        batches = self._stream.batches(
            raw, start, behind, self._iterate, self._compare, sized=sized
        )
        if self._stream.by_share:
            # How long the shares of the others are is not known.
            self.pass_length, self.steps = PassLength(None, 1), None
        return batches

    def mark(self) -> Mark | None:
        """Return what identifies the last batch, None if there is none."""
        return None if self._last is None else take_mark(self._last, self._before)

    def expect(self, mark: Mark | None) -> None:
        """Set what `mark` returned before the interruption of the pass that is read next."""
        self._expected = mark

    def _compare(self, last: list[Any]) -> None:
        """Warn if reading a pass again has given another batch than before its interruption."""
        self._skipped = last
        check_mark(self.name, last, self._expected)
        self._expected = None

    @property
    def exhausted(self) -> bool:
        """Whether the reader has ended with its last batch, as after one that is smaller."""
        return bool(getattr(self.loader, "read_to_end", False)) or bool(
            getattr(self._fetcher, "ended", False)
        )

    def last_skipped(self) -> Any:
        """Return the last batch of this process that a resumed pass has skipped, or None."""
        return next(self._iterate(iter(self._skipped)), None)

    @property
    def by_share(self) -> bool:
        """Whether each process reads a share of the stream that it has chosen itself."""
        return bool(self._stream.by_share)

    def verify(self) -> None:
        """Check that all processes have read the same batches; a collective call."""
        self._stream.verify()

    def rewind(self, state: object) -> None:
        """Restore the position of the stateful loader or dataset."""
        self.stateful.load_state_dict(state)
        self._rewound = True

    @property
    def stateful(self) -> Any:
        """The loader or dataset that has its position in a pass as state, or None."""
        return stateful(self.loader)

    @property
    def order_owners(self) -> list[Any]:
        """Objects with state that determines the order: samplers, and the dataset or iterable."""
        data: Any = getattr(self.loader, "dataset", self.loader)
        if has_state(data):
            return [*owners_of(self.loader), data]
        if hasattr(data, "__dict__") and self._changes is None:
            self._changes = ChangedAttributes(data)
        return [*owners_of(self.loader), GeneratorHolder(data, self._changes)]

    @property
    def reading_owners(self) -> list[Any]:
        """None: skipped batches are read again, which draws the same numbers again."""
        return []

    def to(self, device: torch.device, *, resident: bool = True) -> LoaderSource:
        """Send each batch to `device`; `resident` concerns data in memory alone."""
        self._device = None if is_host(device) else device
        return self

    def served(self) -> Tensor | list[int]:
        """Return no sample numbers: a loader does not provide them."""
        return []

    def samples_in(self, pass_index: int, position: int) -> list[int]:
        """Return no sample numbers: the loader determines the order."""
        return []

    def first_batch(self) -> None:
        """Return None: the loader may yield each of its batches only once."""
        return

    def close(self) -> None:
        """Let go of the iterator; a user's loader controls its own workers."""
        self._fetcher = None

    def _processes(self, batches: Iterator[Any]) -> Iterable[Any]:
        """Return the worker processes of an iterator."""
        return getattr(batches, "_workers", ())

    def _iterate(self, batches: Iterator[Any], raw: Any = None) -> Iterator[Any]:
        """Yield the batches in the form that a step takes.

        Args:
            batches: The batches, as the loader makes them.
            raw: The loader's own iterator, which knows its workers; None if it is `batches`.
        """
        others = self._noted(remaining(batches))
        try:
            for first in others:
                yield from self._converted(first, others)
        except (RuntimeError, OSError, EOFError) as error:
            workers = batches if raw is None else raw
            died = self._find_failed_workers(workers) or failed_worker_in(error)
            if not died:
                raise
            of = f" of {self.name} died (num_workers={self.worker_count})"
            raise DataError(worker_failure_message(died, of)) from error

    def _noted(self, batches: Iterator[Any]) -> Iterator[Any]:
        # A reader that restores its own position, or a list, is not read with random numbers again.
        rereads = self.stateful is None and not isinstance(self.loader, (list, tuple))
        for before, batch in with_state(batches, wanted=self.remembers and rereads):
            self._before, self._last = before, batch
            yield batch

    def _find_failed_workers(self, batches: Iterator[Any]) -> str:
        """Return which workers of an iterator have died, "" for none."""
        for _ in range(3):
            with suppress(RuntimeError):  # torch's SIGCHLD handler raises it at any point
                return failed_workers(self._processes(batches))
        return ""

    def _converted(self, first: Any, others: Iterator[Any]) -> Iterable[Any]:
        """Return batches converted to tensors, copied if they may change, and moved, as needed.

        Each batch is looked at: the first one need not stand for the others.
        """
        batches: Iterable[Any] = map(self._checked, chain((first,), others))
        batches = map(self._as_tensors, batches)
        if not self._collates:
            batches = (map_tensors(self._copied, batch) for batch in batches)
        return batches if self._device is None else self._sender(self._device).batches(batches)

    @property
    def _batch_name(self) -> str:
        return f"a batch of {self.name}"

    def _checked(self, batch: Any) -> Any:
        """Return the batch, unless it is None."""
        if batch is None:
            message = (
                f"{self._batch_name} is None; expected (features, targets): collate_fn, or the "
                "iterable, returned nothing (leave samples out in the Dataset instead)"
            )
            raise DataError(message)
        return batch

    def _as_tensors(self, batch: Any) -> Any:
        """Return a batch with its arrays as tensors; one that has none is passed on as it is."""
        made = self._collates or isinstance(self.loader, DataLoader)
        if made and all(isinstance(leaf, Tensor) for leaf in array_leaves(batch)):
            return batch
        return as_batch(batch, self._batch_name, self.floating)

    def _copied(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor, whose memory the next batch may use.

        On its way to a device it is copied in any case.
        """
        sent = self._device is not None and tensor.device != self._device
        return tensor if sent else tensor.clone()

    def _sender(self, device: torch.device) -> Sender:
        """Return what copies batches to the device while it computes.

        No batch is read ahead: the position of a stateful loader, and what a callback changes
        between two batches, stay as they are on the CPU.
        """
        sender = Sender(device)
        # A loader, a Dataset or a collate_fn of the user's may fill the same pinned memory with
        # each batch; torch's loader pins each batch anew.
        sender.waits = not (type(self.loader) is DataLoader and self.loader.pin_memory)
        return sender


def remaining(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches of an iterator, which is not asked for its iterator again.

    A reader may be its own iterator and begin anew when it is asked, or read on after its end.
    """
    with suppress(StopIteration):
        while True:
            batch = next(batches)
            yield batch


def makes_new_batches(loader: Any) -> bool:
    """Return whether the batches of a loader are new objects: of workers, or of default_collate."""
    if not isinstance(loader, DataLoader):
        return False
    return bool(loader.num_workers) or loader.collate_fn is default_collate


def _iterated(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield from the loader, whose iterator is created with the first batch, not before."""
    yield from loader


def length(thing: Any) -> int | None:
    """Return the length of an object, None if it does not have one."""
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
