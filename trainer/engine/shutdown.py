"""The end of a fit by a signal or an error: the training state is saved first."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fitorch.errors import CheckpointError, FitorchError, NonFiniteError

from .signals import SignalHandler

if TYPE_CHECKING:
    from .run import Run


class Saver(Protocol):
    """What saves the training state.

    Attributes:
        run: The fit.
        newest: The newest checkpoint, None before the first.
        newest_step: The updates that were completed in it.
        resumed_from: The checkpoint that the fit was resumed from, or None.
    """

    run: Run
    newest: Path | None
    newest_step: int
    resumed_from: Path | None

    def save_anew(self) -> None:
        """Save, unless this state is saved already; wait until it is on the disk."""

    def try_encoding(self) -> None:
        """Check whether all states can be stored."""


@dataclass(slots=True)
class Shutdown:
    """Saves the training state, then raises what a signal asks for.

    Args:
        signals: Receives signals.
        saver: Saves the training state, or None.
        callbacks: One of them may take a loss that is not finite as the end of training.
        alone: Whether this is the only process. After an error the others may be anywhere, and
            cannot take part in a checkpoint.
    """

    signals: SignalHandler
    saver: Saver | None
    callbacks: Iterable[Any]
    alone: bool

    def honor_signals(self, *, save: bool = False) -> None:
        """Save and raise, if a signal was received.

        Args:
            save: Save in any case.
        """
        if self.saver is not None and (save or self.signals.requested):
            self.saver.save_anew()
        self.raise_signal()

    def raise_signal(self) -> None:
        """Raise what a signal asks for, if one was received; the message names the checkpoint."""
        signals, saver = self.signals, self.saver
        if saver is None or saver.newest is None or not signals.requested:
            signals.check()
            return
        signals.check(
            f"{signals.stopping_reason}: update {saver.newest_step} is saved in "
            f"{saver.newest} after {signals.seconds:.1f} s; fit(..., resume=True) "
            "resumes there"
        )

    def forgives(self, error: Exception, *, consistent: bool) -> bool:
        """Return whether training ends regularly although an error was raised.

        Otherwise the training state is saved. A signal comes first: it also ends the user's own
        workers that read data, whose error it then caused.

        Args:
            error: The error.
            consistent: Whether the training state is one between two updates.
        """
        if self.signals.requested:
            self._rescue(error, consistent=consistent)
            # This raises, so the error itself is dropped: the signal has caused it.
            self.raise_signal()
        if isinstance(error, NonFiniteError):
            receivers = (getattr(callback, "on_nonfinite", None) for callback in self.callbacks)
            if any(receive(error) for receive in receivers if receive is not None):
                return True
        self._rescue(error, consistent=consistent)
        return False

    def _rescue(self, error: Exception, *, consistent: bool) -> None:
        """Save the training state after an error of a callback, or of the data."""
        # A resumed fit would only meet these two errors again.
        repeats = isinstance(error, (CheckpointError, NonFiniteError))
        if repeats or self.saver is None or not consistent or not self.alone:
            return
        # A second error must not hide the first one, which the caller raises.
        try:
            self.saver.save_anew()
        except (FitorchError, OSError) as failure:
            warnings.warn(f"the training state cannot be saved: {failure}", stacklevel=2)
