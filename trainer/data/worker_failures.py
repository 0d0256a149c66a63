"""Worker processes that have died: which ones, why, and the message about them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from multiprocessing.connection import wait
from typing import Any


def failed_workers(processes: Iterable[Any]) -> str:
    """Return the pids and exit reasons of a DataLoader's workers that have died, "" for none.

    The error of the DataLoader depends on what it was doing; a lost connection has no details.
    """
    workers = {worker.sentinel: worker for worker in processes}
    # The error may be raised a moment before the exit of the worker is known.
    for sentinel in wait(list(workers), timeout=0.2) if workers else ():
        workers[sentinel].join(1)
    return ", ".join(
        f"pid {worker.pid}, {_exit_reason(worker.exitcode)}"
        for worker in workers.values()
        if worker.exitcode
    )


def _exit_reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def worker_failure_message(which: str, of: str = " that reads data died") -> str:
    """Return the error message for a worker process that has died."""
    return (
        f"a worker process ({which}){of}; a common cause is a lack of memory or of shared memory "
        "(/dev/shm): use fewer workers or a smaller batch"
    )


def failed_worker_in(error: Exception) -> str:
    """Return the pid of the dead worker in an error of torch, "" for other errors.

    Torch may raise this error anywhere, even in the middle of a step.
    """
    match = re.search(r"DataLoader worker \((pid(?:\(s\))? [\d, ]+)\)", str(error))
    return match[1] if match else ""
