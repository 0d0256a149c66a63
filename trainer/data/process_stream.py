"""A user's iterable in several processes: read whole by each of them, or by shares."""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from fitorch.distributed.processes import Processes
from fitorch.errors import DataError

from .digest import digest
from .rank_split import RankShard

_END = object()


class ProcessStream:
    """The batches of a user's iterable for one of several processes.

    If the first batches of a pass are the same in all processes, each reads the whole iterable and
    trains on every n-th batch. If all of them differ, the iterable looks at the rank itself, and
    each process trains on its share. Then the processes agree in each round whether one of them
    still has a batch, so that none waits for another, whatever the sizes of the shares.

    Args:
        name: The name of the data, for messages.
        share: The shard of this process.

    Attributes:
        by_share: Whether the iterable is read by shares; None before the first pass.
    """

    def __init__(self, name: str, share: RankShard) -> None:
        self.by_share: bool | None = None
        self._name, self._share = name, share
        self._processes = Processes()
        self._read, self._content = 0, hashlib.blake2b(digest_size=16)

    def batches(
        self,
        raw: Iterator[Any],
        start: int,
        behind: int,
        convert: Callable[[Iterator[Any]], Iterator[Any]],
        compare: Callable[[list[Any]], None],
        *,
        sized: bool,
    ) -> Iterator[Any]:
        """Return the batches of this process; None in a round that has none for it.

        This is a collective call.

        Args:
            raw: The batches of a pass, as the iterable yields them.
            start: The number of batches of this process to skip.
            behind: The number of batches of the iterable to skip before that.
            convert: Returns the batches in the form that a step takes.
            compare: Gets the last batch of this process that is skipped, in a list; [] for none.
            sized: Whether the number of batches is known.

        Raises:
            DataError: Some processes have the same batches, and others have not.
        """
        first = list(islice(raw, 1))
        marks = self._processes.gather(digest(first, waits=True) if first else None)
        by_share = self._differ(marks)
        if by_share and self.by_share is None and self._processes.is_main:
            warnings.warn(
                f"each process reads a share of {self._name} for itself, because their first "
                "batches differ; the samples of all shares count once",
                stacklevel=2,
            )
        self.by_share = by_share
        every = chain(first, raw)
        if by_share:
            compare(list(deque(islice(every, start), maxlen=1)))
            return self._agreed(convert(self._checked(every, start + behind)))
        skipped = behind + start * self._share.world
        compare(self._skip(every, skipped, start))
        missing: list[None] = []
        parts = self._share.of_batches(self._noted(every), missing)
        converted = convert(self._checked(parts, skipped))
        if sized:
            return chain(converted, iter(missing))
        return self._agreed(chain(converted, iter(missing)))

    def verify(self) -> None:
        """Check that all processes have read the same; a collective call.

        Raises:
            DataError: They have not.
        """
        if self.by_share is not False:
            return
        found = self._processes.gather((self._read, self._content.hexdigest()))
        if len(set(found)) > 1:
            counts = ", ".join(str(count) for count, _ in found)
            message = (
                f"the processes have read different batches of {self._name} ({counts} of them so "
                "far): give all the same seed, or split the data by rank from the first batch on"
            )
            raise DataError(message)

    def _checked(self, batches: Iterator[Any], skipped: int) -> Iterator[Any]:
        """Return the batches of this process after a look whether each process has one to train on.

        Raises:
            DataError: One has none, in all processes: none waits for it.
        """
        if skipped or self._name != "train_data":  # evaluation takes any number
            return batches
        first = list(islice(batches, 1))
        having = sum(self._processes.gather(len(first)))
        if 0 < having < self._share.world:
            message = (
                f"{self._name} has {having} batches, fewer than the {self._share.world} processes "
                "that share them; use fewer processes"
            )
            raise DataError(message)
        return chain(first, batches)

    def _differ(self, marks: list[str | None]) -> bool:
        """Return whether each process has other batches, by the digests of their first ones."""
        known = [mark for mark in marks if mark is not None]
        if len(set(known)) == len(known) and len(marks) > 1 and known:
            return True
        if len(set(marks)) == 1:
            return False
        message = (
            f"the first batch of {self._name} is the same in some processes and another one in "
            "others: split the data by the rank of the process (RANK), not of the machine, or "
            "not at all"
        )
        raise DataError(message)

    def _skip(self, batches: Iterator[Any], skipped: int, start: int) -> list[Any]:
        """Skip batches of all processes; return the last one of this process, or []."""
        own = skipped - self._share.world + self._share.rank if start else -1
        kept: list[Any] = []
        for number, batch in enumerate(self._noted(islice(batches, skipped))):
            if number == own:
                kept.append(batch)
        return kept

    def _noted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._read += 1
            self._content.update(digest([batch]).encode())
            yield batch

    def _agreed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield a batch or None in each round, until no process has one."""
        while True:
            batch = next(batches, _END)
            # All wait here for the slowest reader, as they would in the step.
            if not any(self._processes.gather(batch is not _END)):
                return
            yield None if batch is _END else batch
