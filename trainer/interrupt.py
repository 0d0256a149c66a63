"""Ctrl-C during a fit: the running step is finished, then training stops cleanly."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_AGAIN = 1.0  # seconds after which a second Ctrl-C is meant: a terminal may send one twice


class Interrupt:
    """Turns SIGINT into a request that the loop honours after its step.

    A second Ctrl-C, at least a second later, aborts at once. Only in the main thread, and only
    where Python's own handler is installed; it is put back at the end.

    Args:
        model: Its `stop_training` is set.

    Attributes:
        requested: Whether somebody pressed Ctrl-C.
        stopping_reason: Why training stopped, in a word, else "".
    """

    def __init__(self, model: Any) -> None:
        self.requested = False
        self.stopping_reason = ""
        self._model = model
        self._since = 0.0
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def check(self) -> None:
        """Raise KeyboardInterrupt where somebody asked for it."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since >= _AGAIN:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._since = True, now
            self.stopping_reason = "interrupted"
            self._model.stop_training = True


def in_notebook() -> bool:
    """Say whether this is a notebook's kernel, where an interrupt should end a cell tidily."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Jupyter, Colab
