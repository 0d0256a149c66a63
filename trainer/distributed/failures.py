"""Shared store in which a failing rank records its error for the other ranks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any, TypeAlias

from torch import distributed

from fitorch.internals.torch import default_store

TIMEOUT = timedelta(minutes=10)  # of a collective; torch's default is 30 for gloo

_GRACE = 3.0  # seconds to wait for the records of all ranks

_GRACE_OF_LAST = 0.5  # seconds to wait for the last rank, which has probably vanished

_SIGTERM_DELAY = 5.0  # seconds; torchrun kills after 30

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers


class FailureStore:
    """The errors of all ranks in one call, kept in the store of torch's process group.

    Args:
        rank: The rank of this process.
        world_size: The number of processes.
        call: The number of the call, the same in all processes; it separates the keys of calls.
    """

    def __init__(self, rank: int, world_size: int, call: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._store: Any = default_store()
        self._prefix = f"fitorch/{call}"

    def publish(self, error: BaseException) -> None:
        """Record the error of this process."""
        # The store holds text only.
        lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        with suppress(RuntimeError):  # the process that hosted the store is gone
            self._store.set(f"{self._prefix}/failed/{self._rank}", "\n".join(lines))

    def all_failed(self) -> bool:
        """Return whether all ranks have recorded an error, after waiting for them a moment."""
        try:
            return len(self._read("failed", grace_of_last=_GRACE)) == self._world_size
        except RuntimeError:
            return False

    def diagnose(self, where: str, error: BaseException) -> str:
        """Return the reason why the other processes cannot be reached, for a message.

        Args:
            where: The call that the processes are in, as "fit".
            error: The error of torch's collective.
        """
        try:
            # A process that still runs writes this key; one that was killed does not.
            self._store.set(f"{self._prefix}/alive/{self._rank}", "")
            # This waits up to _GRACE seconds for the records of the other processes.
            records = self._read("alive", "failed", grace_of_last=_GRACE_OF_LAST)
        except RuntimeError:
            return (
                f"{where}: process {self._rank} lost contact with the others, including the one "
                f"that hosts the shared store: {error}"
            )
        # The error that a process recorded is the cause; a vanished process comes next, and lost
        # contact is what remains.
        if failed := {rank: text for rank, text in records.items() if text}:
            return "; ".join(f"{where} failed in process {n}: {t}" for n, t in failed.items())
        if lost := [str(rank) for rank in range(self._world_size) if rank not in records]:
            return (
                f"{where}: process {', '.join(lost)} of {self._world_size} vanished (killed, or "
                f"out of memory?); {', '.join(map(str, sorted(records)))} responded"
            )
        return (
            f"{where}: the processes lost contact, or one did not respond within "
            f"{TIMEOUT.total_seconds():.0f} s: {error}"
        )

    def _read(self, *categories: str, grace_of_last: float) -> dict[int, str]:
        """Return the record of each rank, waiting a moment for missing ones.

        Args:
            categories: The categories of records to read: "alive" (an empty text), "failed".
            grace_of_last: The seconds to wait once only one rank is missing.
        """
        records: dict[int, str] = {}
        end = time.monotonic() + _GRACE
        while True:
            for rank in range(self._world_size):
                for category in categories:
                    key = f"{self._prefix}/{category}/{rank}"
                    if not records.get(rank) and self._store.check([key]):
                        # `get` blocks until the key exists, so `check` comes first.
                        records[rank] = self._store.get(key).decode()
            if len(records) == self._world_size or time.monotonic() > end:
                return records
            if len(records) == self._world_size - 1:
                # The short wait starts once, when only one rank is missing; later rounds keep that
                # end.
                end, grace_of_last = min(end, time.monotonic() + grace_of_last), _GRACE
            time.sleep(0.02)


def is_transport_error(error: BaseException | None) -> bool:
    """Return whether torch raised an error because other processes cannot be reached."""
    while error is not None:
        if isinstance(error, distributed.DistError):
            return True
        words = ("gloo/", "Connection closed by peer", "NCCL", "ProcessGroup")
        if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
            return True
        error = error.__cause__
    return False


def report_to_launcher(error: BaseException) -> None:
    """Record an error for torchrun's final report, if torchrun started this process."""
    if isinstance(error, Exception) and "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        with suppress(OSError):
            get_error_handler().record_exception(error)


def await_error_reports() -> None:
    """Delay the effect of SIGTERM some seconds, so that this process can raise its error.

    A launcher sends SIGTERM to all processes once one has failed. Nothing is changed outside the
    main thread, or if SIGTERM already has a handler.
    """
    _replace(signal.SIG_DFL, end_later)


def end_at_once() -> None:
    """Undo `await_error_reports`."""
    _replace(end_later, signal.SIG_DFL)


def end_later(number: int, _frame: FrameType | None) -> None:
    """Handle a signal: end this process by it after a delay, or at once by a second one."""
    # The default handler is back, so that a second signal ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    timer = threading.Timer(_SIGTERM_DELAY, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _replace(before: _Handler, after: _Handler) -> None:
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is before:
        signal.signal(signal.SIGTERM, after)
