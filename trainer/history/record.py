"""A fit in words: what it was asked for, where it ran, how it ended."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fitorch.errors import Preempted

from .revision import Revision

RUNNING, COMPLETE, STOPPED = "in training", "complete", "stopped early"

INTERRUPTED, FAILED = "interrupted", "failed"

_LONGEST = 4000  # characters of an error's message


@dataclass(slots=True)
class FitRecord:
    """A fit, as somebody reads about it later; it holds text and numbers alone.

    Attributes:
        net: The class of the net.
        parameters: How many the net has.
        settings: What was asked for, by name.
        environment: Where it ran, by name.
        revision: What git had checked out when it began, or None.
        first: The rows of the history before it.
        began: When it began, in seconds since 1970.
        rows: The rows of the history at its end.
        seconds: How long it took.
        status: "in training", "complete", "stopped early", "interrupted" or "failed".
        reason: Why it ended, in a sentence.
        error: The message of the error that ended it, or "".
        run_id: Which run it belongs to.
        checkpoint: The newest checkpoint, or None.
        best_file: Where weights of the best epoch may be, or None.
        last_epoch: The number of the last epoch that was asked for.
        restored: The epoch, from 1, whose weights the net got at the end, or None.
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
        """Keep how the fit ended: for an error's sake while that is under way.

        Args:
            rows: The rows of the history.
            metrics: The metrics, now that their tasks are known.
            ending: Status and reason, where no error is under way.
        """
        self.rows = rows
        self.seconds = time.time() - self.began
        self.settings |= metrics
        error, handled = sys.exc_info()[1], self._handled
        self._handled = None  # it would keep frames alive
        if error is not None and error is not handled:
            self._fail(error)
        else:
            self.status, self.reason = ending

    def saved(self, path: Path) -> None:
        """Keep where the newest checkpoint is."""
        self.checkpoint = path.absolute()  # should the process go elsewhere in between

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt | Preempted):
            self.status = INTERRUPTED
            self.reason = _text(error) or "interrupted"
            return
        self.status, self.reason = FAILED, f"{type(error).__name__} was raised"
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        self.error = "\n".join([f"{type(error).__name__}: {_text(error)}", *notes])[:_LONGEST]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # somebody's own class
        return ""
