"""The progress of a fit: a live line, and one line per epoch."""

from __future__ import annotations

import math
from functools import cached_property
from time import perf_counter
from typing import ClassVar

from rich.console import Console

from fitorch.callbacks.base import Callback, Logs
from fitorch.callbacks.early_stopping import EarlyStopping
from fitorch.checks import plain

from .rows import EpochRow
from .screen import Screen
from .stage import Stage
from .table import Table

_MAX_PAUSE = 1.0  # seconds between two refreshes, if reading the metrics is slow

_SHARE = 0.01  # of the time for the display, at most

_SLOW = 0.5  # seconds; the line of a longer epoch is written at once

_SLOW_FOR_A_FILE = 0.005  # seconds; in a file, lines keep their order with other output


class Progress(Callback):
    """Shows the progress of training, evaluation and prediction.

    On a terminal, a live line shows batches, pace, time left and the running metrics, and each
    epoch adds a row to a table. In a file, and in CI, each epoch adds one plain line. A step costs
    a counter and a call of the clock. At most ten times a second, and less often if the metrics are
    slow to read, the display is refreshed.

    Args:
        verbose: 1 for a live line on terminals, 2 for plain lines everywhere.
        monitor: The metric whose best value so far is marked, such as `"val_acc"`; None for none.
        mode: Whether `"min"` or `"max"` is best.
        console: The output; None is standard output.

    Attributes:
        best: The best value of the monitored metric before this fit, or None.
        stopping: The callback that counts epochs without improvement, or None.
        directions: "min" or "max" for each metric for which it is known: on a terminal, an arrow
            shows the change since the last epoch.

    Raises:
        ValueError: `verbose` or `mode` is not one of these.
    """

    main_process_only: ClassVar[bool] = True

    pause: ClassVar[float] = 0.1  # seconds between two refreshes, at least

    def __init__(
        self,
        verbose: int = 1,
        *,
        monitor: str | None = None,
        mode: str = "min",
        console: Console | None = None,
    ) -> None:
        verbose = plain(verbose)
        if verbose not in (1, 2):
            message = f"verbose must be 1 or 2 here, got {verbose!r}; fit(verbose=0) is silent"
            raise ValueError(message)
        if mode not in ("min", "max"):
            message = f"mode must be 'min' or 'max', got {mode!r}"
            raise ValueError(message)
        self.params = {}
        self._verbose = verbose
        self._monitor = monitor
        self._mode = mode
        self.best: float | None = None
        self.stopping: EarlyStopping | None = None
        self.directions: dict[str, str] = {}
        self._console = console
        self._fitting = False
        self._validation_steps: int | None = None
        self._rows: list[EpochRow] = []  # not yet written
        self._open()

    @cached_property
    def _screen(self) -> Screen:
        return Screen(self._console, live=self._verbose == 1)

    @cached_property
    def _table(self) -> Table:
        epochs = self.params.get("epochs")
        directions = self.directions
        return Table(self._screen, epochs, self._monitor, self._mode, self.best, directions)

    def say(self, text: str) -> None:
        """Write `text` on separate lines, after the epochs so far and above the live line."""
        self._screen.insert([*self._take_lines(), *self._screen.fold(text)])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a table."""
        self._open()
        self._fitting = True
        self._validation_steps = self.params.get("validation_steps")

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Write the pending lines, and erase the live line."""
        self._screen.write(self._take_lines())
        self._fitting = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start an epoch's live line."""
        self._epoch = epoch + 1
        self._epoch_began = perf_counter()
        self._begin("", self.params.get("steps"))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add an epoch to the next refresh, or write it now if it was slow."""
        figures = dict(logs or {})
        # A value of that name in the logs takes precedence over the measured time.
        seconds = figures.pop("seconds", perf_counter() - self._epoch_began)
        self._rows.append(EpochRow(epoch + 1, figures, seconds))
        if seconds >= (_SLOW if self._screen.live else _SLOW_FOR_A_FILE):
            self._screen.write(self._take_lines())
            self._due = 0.0  # show the next epoch's line at once, too

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count the batch, and refresh if a refresh is due."""
        self._count += 1
        # A step pays only for this comparison: reading metrics waits for the device.
        if perf_counter() >= self._due:
            self._refresh(batch + 1, logs)

    on_test_batch_end = on_train_batch_end
    on_predict_batch_end = on_train_batch_end

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Start the live line of a validation or an evaluation."""
        if self._fitting:
            self._begin("validating", self._validation_steps)
        else:
            self._open()
            self._begin("evaluating", self.params.get("steps"))

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Erase the live line of an evaluation; record the number of validation batches."""
        if self._fitting:
            # The length of a validation is often known only after the first one.
            self._validation_steps = self._count
        else:
            self._screen.write()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Start the live line of a prediction."""
        self._open()
        self._begin("predicting", self.params.get("steps"))

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Erase the live line."""
        self._screen.write()

    def _open(self) -> None:
        """Reset the display, and check the output again: it may have been redirected."""
        # These are cached properties: the next access creates them for the output of that time.
        for name in ("_screen", "_table"):
            self.__dict__.pop(name, None)
        self._rows.clear()
        self._epoch = 0
        self._epoch_began = perf_counter()
        self._due = 0.0  # the time of the next refresh

    def _begin(self, verb: str, steps: int | None) -> None:
        now = perf_counter()
        title = f"epoch {self._table.title(self._epoch)}" if self._fitting else ""
        self._stage = Stage(title, verb, steps, now, self._patience())
        self._count = 0
        if now >= self._due:
            self._refresh(0, None)

    def _patience(self) -> str:
        """Return the remaining patience, "" while every epoch improves."""
        stopping = self.stopping if self._fitting else None
        if stopping is None or not 0 < stopping.wait <= stopping.patience:
            return ""
        return f"patience {stopping.patience - stopping.wait}/{stopping.patience}"

    def _refresh(self, done: int, logs: Logs | None) -> None:
        """Write the pending lines and the live line, and set the time of the next refresh."""
        # The output is closed: no refresh is due any more.
        if self._screen.broken:
            self._due = math.inf
            return
        now = perf_counter()
        line = self._live_line(done, now, logs or {}) if self._screen.live else ""
        self._screen.write(self._take_lines(), line)
        end = perf_counter()
        # The pause grows with the time that a refresh takes, which includes the wait for the
        # device.
        self._due = end + min(max((end - now) / _SHARE, self.pause), _MAX_PAUSE)

    def _live_line(self, done: int, now: float, logs: Logs) -> str:
        return self._stage.line(done, self._count, now, logs, self._screen)

    def _take_lines(self) -> list[str]:
        lines = [line for row in self._rows for line in self._table.lines(row)]
        self._rows.clear()
        return lines
