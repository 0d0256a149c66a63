"""The record of a fit: its settings, its environment, and how it ended."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fitorch.errors import Preempted

from .revision import Revision

RUNNING, COMPLETE, STOPPED = "in training", "complete", "stopped early"

INTERRUPTED, FAILED = "interrupted", "failed"

_MAX_LENGTH = 4000  # characters of an error's message


@dataclass(slots=True)
class FitRecord:
    """The facts about a fit, for reports: text and numbers only.

    Attributes:
        net: The class of the net.
        parameters: The number of its parameters.
        settings: The requested settings, by name.
        environment: Versions and devices, by name.
        revision: The git revision at the start, or None.
        first: The number of rows in the history before the fit.
        began: The start, in seconds since 1970.
        rows: The number of rows in the history at the end.
        seconds: The duration.
        status: "in training", "complete", "stopped early", "interrupted" or "failed".
        reason: Why the fit ended, in a sentence.
        error: The message of the error that ended the fit, or "".
        run_id: The run that the fit belongs to.
        checkpoint: The newest checkpoint, or None.
        best_file: The file for the weights of the best epoch, or None.
        last_epoch: The number of the last requested epoch.
        restored: The epoch, from 1, whose weights the net has after the fit, or None.
    """

    net: str
    parameters: int
    settings: dict[str, str]
    environment: dict[str, str]
    revision: Revision | None
    first: int
    began: float
    run_id: str
    checkpoint: Path | None
    best_file: Path | None
    last_epoch: int
    rows: int = 0
    seconds: float = 0.0
    status: str = RUNNING
    reason: str = ""
    error: str = ""
    restored: int | None = None
    _done_before: bool = False
    _handled: BaseException | None = field(default=None, repr=False)

    def end(self, rows: int, metrics: dict[str, str], ending: tuple[str, str]) -> None:
        """Record how the fit ended; an error that is being handled is the reason.

        Args:
            rows: The number of rows in the history.
            metrics: The metrics with their tasks, which are known by now.
            ending: Status and reason if there is no error.
        """
        self.rows = rows
        self.seconds = time.time() - self.began
        self.settings |= metrics
        # An error that was being handled before the fit, in the caller's except block, is no end.
        error, handled = sys.exc_info()[1], self._handled
        self._handled = None  # its traceback would keep frames alive
        if error is not None and error is not handled:
            self._fail(error)
        else:
            self.status, self.reason = ending

    def saved(self, path: Path) -> None:
        """Record the newest checkpoint."""
        self.checkpoint = path.absolute()  # the working directory may change

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt | Preempted):
            self.status = INTERRUPTED
            self.reason = _text(error) or "interrupted"
            return
        self.status, self.reason = FAILED, f"{type(error).__name__} was raised"
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        self.error = "\n".join([f"{type(error).__name__}: {_text(error)}", *notes])[:_MAX_LENGTH]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a user's class with a broken __str__
        return ""
