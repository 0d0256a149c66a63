"""Ctrl-C and SIGTERM during a fit: training stops cleanly after the current step."""

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

_REPEAT_AFTER = 1.0  # seconds; an earlier second signal is a duplicate: a terminal may send two


class SignalHandler:
    """Turns signals into a request that the loop honors after the current step.

    Ctrl-C is handled always. SIGTERM, and SIGUSR1 in a SLURM job, which sends it some time before
    the end, are handled if there is something to save, or if there are several processes, which
    must end together. A second signal, at least a second later, aborts at once. Handlers are
    installed only in the main thread and only in place of Python's defaults, which are restored at
    the end.

    Args:
        model: Its `stop_training` is set when a signal is received.
        saves: Whether there is something to save at the end.

    Attributes:
        requested: Whether a signal was received, and all processes know of it.
        pending_signal: The signal that this process received.
        waits: Whether a signal is honored only after all processes have synchronized; see `adopt`.
        stopping_reason: The reason why training stopped, "" before a signal.
    """

    def __init__(self, model: BaseModel, *, saves: bool = False) -> None:
        self.stopping_reason = ""
        self.waits = False
        self.pending_signal: int | None = None
        self._signal: int | None = None
        self._model = model
        self._saves = saves
        self._distributed = Processes().is_distributed
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalHandler:
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is threading.main_thread():
            for number, default in self._handled().items():
                # Handlers of the user stay; an earlier call that failed may have left `end_later`.
                if signal.getsignal(number) in (default, end_later):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
        if self._distributed and isinstance(error, Exception):
            # The launcher sends SIGTERM once another process has failed; this process must still
            # be able to raise its own error.
            await_error_reports()

    @property
    def requested(self) -> bool:
        """Whether a signal was received that all processes know of."""
        return self._signal is not None

    @property
    def pending(self) -> bool:
        """Whether this process received a signal."""
        return self.pending_signal is not None

    def adopt(self, number: int) -> None:
        """Honor a signal that one of the processes received."""
        # A process that received the signal itself counts from that moment.
        self._signal, self._since = number, self._since or time.monotonic()
        self._stop(number)

    @property
    def seconds(self) -> float:
        """The seconds since the signal was received."""
        return time.monotonic() - self._since

    def check(self, what: str = "training was interrupted") -> None:
        """Raise the exception of a signal, if one was received.

        Args:
            what: The message.

        Raises:
            KeyboardInterrupt: Ctrl-C was received.
            Preempted: SIGTERM was received, or SIGUSR1 in a SLURM job.
        """
        if self._signal is not None:
            self._raise(self._signal, what)

    def _handled(self) -> dict[int, Any]:
        """Return the signals to handle, each with the default handler that may be replaced."""
        handled: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if self._saves or self._distributed:
            handled[signal.SIGTERM] = signal.SIG_DFL
            if "SLURM_JOB_ID" in os.environ:
                handled[signal.SIGUSR1] = signal.SIG_DFL
        return handled

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # This runs between any two bytecodes of the main thread, so it only sets a few attributes;
        # the loop acts on them between two steps.
        now = time.monotonic()
        if self.pending and now - self._since >= _REPEAT_AFTER:
            self._raise(number, "training was aborted by a second signal")
        if not self.pending:
            self.pending_signal, self._since = number, now
            # With several processes, `adopt` sets the signal in all of them after the same update.
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
