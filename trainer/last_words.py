"""SIGTERM while an error is about to be told: a launcher sends it once one process has ended."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_SECONDS = 5.0  # that SIGTERM waits; torchrun kills after 30


def await_last_words() -> None:
    """Have SIGTERM end this process some seconds later, so that its error can be raised and read.

    Only in the main thread, and only where nobody else handles it.
    """
    _replace(signal.SIG_DFL, end_later)


def end_at_once() -> None:
    """Take `await_last_words` back."""
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
