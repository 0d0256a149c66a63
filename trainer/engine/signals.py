"""Ctrl-C and SIGTERM during a fit: the running step is finished, then training stops cleanly."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from fitorch.distributed.failures import await_error_reports, end_later
from fitorch.distributed.processes import Processes
from fitorch.errors import Preempted

if TYPE_CHECKING:
    from .base_model import BaseModel

_AGAIN = 1.0  # seconds after which a second signal is meant: a terminal may send one twice


class SignalHandler:
    """Turns signals into a request that the loop honours after its step.

    Ctrl-C always; where something is saved then also SIGTERM, and SIGUSR1 in a job of SLURM, which
    sends it some time before the end; of several processes, which must end together, always. A
    second signal, at least a second later, aborts at once. Only in the main thread, and only in the
    place of Python's own handlers, which are put back at the end.

    Args:
        model: Its `stop_training` is set.
        saves: Whether there is anything to save at the end.

    Attributes:
        requested: Whether a signal came, and all processes know of it.
        pending_signal: The signal that came to this process.
        waits: Whether a signal is honoured only once all processes have decided so: see `adopt`.
        stopping_reason: Why training stopped, in a word, else "".
    """

    def __init__(self, model: BaseModel, *, saves: bool = False) -> None:
        self.stopping_reason = ""
        self.waits = False
        self.pending_signal: int | None = None
        self._signal: int | None = None
        self._model = model
        self._saves = saves
        self._several = Processes().is_distributed
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():
            for number, default in self._handled().items():
                if signal.getsignal(number) in (default, end_later):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
        if self._several and isinstance(error, Exception):
            await_error_reports()

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    @property
    def pending(self) -> bool:
        """Whether a signal came to this process."""
        return self.pending_signal is not None

    def adopt(self, number: int) -> None:
        """Take a signal that came to one of several processes for one's own."""
        self._signal, self._since = number, self._since or time.monotonic()
        self._stop(number)

    @property
    def seconds(self) -> float:
        """How long ago it came."""
        return time.monotonic() - self._since

    def check(self, what: str = "training was interrupted") -> None:
        """Raise what a signal asked for, where one came.

        Args:
            what: What happened, for the message.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            Preempted: SIGTERM, or SIGUSR1 in a job of SLURM.
        """
        if self._signal is not None:
            self._raise(self._signal, what)

    def _handled(self) -> dict[int, Any]:
        """Return the signals to handle, each with the handler that may be replaced."""
        handled: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if self._saves or self._several:
            handled[signal.SIGTERM] = signal.SIG_DFL
            if "SLURM_JOB_ID" in os.environ:
                handled[signal.SIGUSR1] = signal.SIG_DFL
        return handled

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.pending and now - self._since >= _AGAIN:
            self._raise(number, "training was aborted by a second signal")
        if not self.pending:
            self.pending_signal, self._since = number, now
            if not self.waits:
                self._signal = number
            self._stop(number)

    def _stop(self, number: int) -> None:
        interrupted = number == signal.SIGINT
        name = signal.Signals(number).name
        self.stopping_reason = "interrupted" if interrupted else f"{name} was received"
        self._model.stop_training = True

    @staticmethod
    def _raise(number: int, what: str) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt(what)
        raise Preempted(what)
