"""Who writes checkpoints: this thread, or one of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .checkpoint import Checkpoint


class Foreground:
    """Writes at once.

    Args:
        tell: Is told what was written: None where another process does so.
    """

    def __init__(self, tell: Callable[[Checkpoint | None], None]) -> None:
        self._tell = tell

    def start(self, write: Callable[[], Checkpoint | None]) -> None:
        """Write."""
        self._tell(write())

    def wait(self) -> None:
        """Do nothing: all is written."""


class Background:
    """Writes in a thread, one checkpoint at a time; errors are raised when somebody waits.

    Args:
        tell: Is told, in the thread of training, what was written.
    """

    def __init__(self, tell: Callable[[Checkpoint | None], None]) -> None:
        self._tell = tell
        self._thread: threading.Thread | None = None
        self._result: Checkpoint | BaseException | None = None

    def start(self, write: Callable[[], Checkpoint | None]) -> None:
        """Wait for the checkpoint before, and begin with this one."""
        self.wait()
        self._thread = threading.Thread(target=self._work, args=(write,), name="fitorch-save")
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is written."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, result, self._result = None, self._result, None
        if isinstance(result, BaseException):
            raise result
        self._tell(result)

    def _work(self, write: Callable[[], Checkpoint | None]) -> None:
        try:
            self._result = write()
        except BaseException as error:
            self._result = error
