"""Write checkpoints in this thread, or in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .checkpoint import Checkpoint


class SyncWriter:
    """Writes in the calling thread.

    Args:
        on_written: Called with the checkpoint, None if another process writes it.
    """

    def __init__(self, on_written: Callable[[Checkpoint | None], None]) -> None:
        self._on_written = on_written

    def start(self, write: Callable[[], Checkpoint | None]) -> None:
        """Write a checkpoint."""
        self._on_written(write())

    def wait(self) -> None:
        """Return at once: nothing is pending."""


class AsyncWriter:
    """Writes in a thread, one checkpoint at a time; `wait` raises the errors.

    Args:
        on_written: Called with the checkpoint, in the thread of training.
    """

    def __init__(self, on_written: Callable[[Checkpoint | None], None]) -> None:
        self._on_written = on_written
        self._thread: threading.Thread | None = None
        self._result: Checkpoint | BaseException | None = None

    def start(self, write: Callable[[], Checkpoint | None]) -> None:
        """Wait for the previous checkpoint, and start to write this one."""
        # One checkpoint is pending at a time: two copies would need twice the memory, and could
        # finish out of order.
        self.wait()
        self._thread = threading.Thread(target=self._work, args=(write,), name="fitorch-save")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the pending checkpoint is written; raise its error."""
        if self._thread is None:
            return
        # This waits for the disk.
        self._thread.join()
        # Cleared before the error is raised, so that a second call does not raise it again.
        self._thread, result, self._result = None, self._result, None
        if isinstance(result, BaseException):
            raise result
        self._on_written(result)

    def _work(self, write: Callable[[], Checkpoint | None]) -> None:
        try:
            self._result = write()
        except BaseException as error:  # a thread would only print it
            self._result = error
