"""What a fit was asked for, where it ran and how it ended, in words: what a report is made of."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fitorch.callbacks.best_weights import BestWeights
from fitorch.callbacks.callback_list import one_by_one

from .errors import Preempted
from .git import Revision, revision
from .settings import environment_of, metrics_of, settings_of, sized
from .weights import BEST

if TYPE_CHECKING:
    from .run import Run

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

    @classmethod
    def begin(cls, run: Run) -> FitRecord:
        """Return the record of a fit that begins."""
        saving = run.saving
        best = _best_weights(run)
        folder = None if best is None else best.folder
        return cls(
            net=type(run.net).__name__,
            parameters=sum(p.numel() for p in sized(run.net)),
            settings=settings_of(run),
            environment=environment_of(run),
            revision=revision(),
            first=len(run.model.history),
            began=time.time(),
            run_id=run.model.run_id,
            checkpoint=None if saving is None else _absolute(saving.resumed_from),
            best_file=None if folder is None else _absolute(folder / BEST),
            last_epoch=run.last_epoch,
            _done_before=run.done,
            _handled=sys.exc_info()[1],
        )

    def end(self, run: Run) -> None:
        """Keep how the fit ended: for an error's sake while that is under way."""
        self.rows = len(run.model.history)
        self.seconds = time.time() - self.began
        self.settings |= metrics_of(run)
        error, handled = sys.exc_info()[1], self._handled
        self._handled = None  # it would keep frames alive
        if error is not None and error is not handled:
            self._fail(error)
        else:
            self.status, self.reason = self._ending(run)
        best = _best_weights(run)
        if best is not None and best.watched.best_epoch is not None:
            self.restored = best.watched.best_epoch + 1

    def saved(self, path: Path) -> None:
        """Keep where the newest checkpoint is."""
        self.checkpoint = _absolute(path)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt | Preempted):
            self.status = INTERRUPTED
            self.reason = _text(error) or "interrupted"
            return
        self.status, self.reason = FAILED, f"{type(error).__name__} was raised"
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        self.error = "\n".join([f"{type(error).__name__}: {_text(error)}", *notes])[:_LONGEST]

    def _ending(self, run: Run) -> tuple[str, str]:
        witnesses = [*one_by_one(run.state.callbacks), run.interrupt]
        reason = next(filter(None, (getattr(w, "stopping_reason", "") for w in witnesses)), "")
        if self._done_before:
            return COMPLETE, "there was nothing left to train"
        if reason:
            return STOPPED, str(reason)
        if run.progress.epochs >= run.last_epoch:
            return COMPLETE, "all epochs that were asked for are trained"
        return STOPPED, "stop_training was set"


def _best_weights(run: Run) -> BestWeights | None:
    return next((c for c in one_by_one(run.state.callbacks) if isinstance(c, BestWeights)), None)


def _absolute(path: Path | None) -> Path | None:
    """Return a path that stays the same where the working directory changes."""
    return None if path is None else path.absolute()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # somebody's own class
        return ""
