"""How a process that fails tells the others why, and gets to say it before it is ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

from torch import distributed

from fitorch.internals.torch import default_store

TIMEOUT = timedelta(minutes=10)  # that a process waits for the others, torch's own being 30

_GRACE = 3.0  # seconds in which processes that fail tell the others why

_SETTLED = 0.5  # seconds in which the last one may be heard of, where it did not vanish


class FailureStore:
    """What the processes have said in one call, in the store that also keeps their addresses.

    Args:
        rank: The number of this process.
        count: How many there are.
        call: The number of the call that they are in.
    """

    def __init__(self, rank: int, count: int, call: int) -> None:
        self._rank, self._count = rank, count
        self._store: Any = default_store()
        self._prefix = f"fitorch/{call}"

    def publish(self, error: BaseException) -> None:
        """Say why this process fails."""
        lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        with suppress(RuntimeError):  # the store was kept by a process that is gone
            self._store.set(f"{self._prefix}/failed/{self._rank}", "\n".join(lines))

    def all_failed(self) -> bool:
        """Wait a moment for the others to fail too; say whether all did."""
        try:
            return len(self._heard("failed", settled=_GRACE)) == self._count
        except RuntimeError:
            return False

    def diagnose(self, where: str, error: BaseException) -> str:
        """Return why the others can't be reached.

        Args:
            where: What the processes were at.
            error: What torch says of it.
        """
        try:
            self._store.set(f"{self._prefix}/heard/{self._rank}", "")
            heard = self._heard("heard", "failed", settled=_SETTLED)
        except RuntimeError:
            return (
                f"{where}: process {self._rank} has lost the others, among them the one that kept "
                f"their addresses: {error}"
            )
        if failed := {rank: text for rank, text in heard.items() if text}:
            return "; ".join(f"{where} failed in process {n}: {t}" for n, t in failed.items())
        if lost := [str(rank) for rank in range(self._count) if rank not in heard]:
            return (
                f"{where}: process {', '.join(lost)} of {self._count} vanished (killed, or out of "
                f"memory?); heard from {', '.join(map(str, sorted(heard)))}"
            )
        return (
            f"{where}: the processes have lost each other, or one kept the others waiting for more "
            f"than {TIMEOUT.total_seconds():.0f} s: {error}"
        )

    def _heard(self, *kinds: str, settled: float) -> dict[int, str]:
        """Return what each process has said.

        Wait a moment for all of them; less, from when only one is missing.
        """
        found: dict[int, str] = {}
        end = time.monotonic() + _GRACE
        while True:
            for rank in range(self._count):
                for kind in kinds:
                    key = f"{self._prefix}/{kind}/{rank}"
                    if not found.get(rank) and self._store.check([key]):
                        found[rank] = self._store.get(key).decode()
            if len(found) == self._count or time.monotonic() > end:
                return found
            if len(found) == self._count - 1:
                end, settled = min(end, time.monotonic() + settled), _GRACE
            time.sleep(0.02)


def is_transport_error(error: BaseException | None) -> bool:
    """Say whether torch raised an error because processes can't be reached."""
    while error is not None:
        if isinstance(error, distributed.DistError):
            return True
        words = ("gloo/", "Connection closed by peer", "NCCL", "ProcessGroup")
        if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
            return True
        error = error.__cause__
    return False


def report_to_launcher(error: BaseException) -> None:
    """Have torchrun show an error in what it prints at the end, where it began this process."""
    if isinstance(error, Exception) and "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        with suppress(OSError):
            get_error_handler().record_exception(error)


_SECONDS = 5.0  # that SIGTERM waits; torchrun kills after 30


def await_error_reports() -> None:
    """Have SIGTERM end this process some seconds later, so that its error can be raised and read.

    Only in the main thread, and only where nobody else handles it.
    """
    _replace(signal.SIG_DFL, end_later)


def end_at_once() -> None:
    """Take `await_error_reports` back."""
    _replace(end_later, signal.SIG_DFL)


def end_later(number: int, _frame: FrameType | None) -> None:
    """End by the signal, but not yet; a second one ends at once."""
    signal.signal(number, signal.SIG_DFL)
    timer = threading.Timer(_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _replace(before: Any, after: Any) -> None:
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is before:
        signal.signal(signal.SIGTERM, after)
