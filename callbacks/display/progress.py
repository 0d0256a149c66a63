"""What people see while they wait: a live line, and a line for each epoch."""

from __future__ import annotations

import math
from functools import cached_property
from time import perf_counter
from typing import ClassVar

from rich.console import Console

from fitorch.callbacks.base import Callback, Logs
from fitorch.callbacks.early_stopping import EarlyStopping

from .rows import EpochRow
from .screen import Screen
from .stage import Stage
from .table import Table

_LONGEST_PAUSE = 1.0  # where reading the figures takes long

_SHARE = 0.01  # of the time may be spent on the display

_SLOW = 0.5  # seconds; an epoch that took this long gets its line at once,

_SLOW_FOR_A_FILE = 0.005  # in a file, where what callbacks print should stand in its place


class Progress(Callback):
    """Shows how training, evaluation and prediction get on.

    On a terminal, one live line tells batches, speed, time left and the running figures; each
    epoch leaves a row in a table. In a file, and in CI, each epoch leaves one plain line. A step
    costs a counter and a look at the clock. At most ten times a second, and less often where the
    figures are slow to come by, they are read and what has gathered is written.

    Args:
        verbose: 1 for the live line where there is a terminal, 2 for plain lines anywhere.
        monitor: The figure whose best value so far is marked, such as `"val_acc"`; None marks none.
        mode: `"min"` or `"max"`, what is best.
        console: Where to write; None is standard output.

    Attributes:
        best: What the best value of the marked figure was before the fit that begins, or None.
        stopping: Who counts epochs without improvement, as EarlyStopping, or None.
        directions: "min" or "max" for each figure of which that is known: on a terminal an arrow
            tells where it went since the epoch before.

    Raises:
        ValueError: `verbose` or `mode` is none of these.
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
        self._rows: list[EpochRow] = []  # not written yet
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
        """Write `text` on lines of its own, after the epochs so far and above the live line."""
        self._screen.insert([*self._take_lines(), *self._screen.fold(text)])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a table."""
        self._open()
        self._fitting = True
        self._validation_steps = self.params.get("validation_steps")

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Write what is left and take the live line away."""
        self._screen.write(self._take_lines())
        self._fitting = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start an epoch's live line."""
        self._epoch = epoch + 1
        self._epoch_began = perf_counter()
        self._begin("", self.params.get("steps"))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep an epoch's figures for the next refresh; write them now if the epoch was slow."""
        figures = dict(logs or {})
        seconds = figures.pop("seconds", perf_counter() - self._epoch_began)
        self._rows.append(EpochRow(epoch + 1, figures, seconds))
        if seconds >= (_SLOW if self._screen.live else _SLOW_FOR_A_FILE):
            self._screen.write(self._take_lines())
            self._due = 0.0  # show the next epoch's line at once, too

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count, and refresh when it is time."""
        self._count += 1
        if perf_counter() >= self._due:
            self._refresh(batch + 1, logs)

    on_test_batch_end = on_train_batch_end
    on_predict_batch_end = on_train_batch_end

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Start the live line of a validation or of an evaluation."""
        if self._fitting:
            self._begin("validating", self._validation_steps)
        else:
            self._open()
            self._begin("evaluating", self.params.get("steps"))

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Take an evaluation's live line away; remember how many batches a validation has."""
        if self._fitting:
            self._validation_steps = self._count
        else:
            self._screen.write()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Start the live line of a prediction."""
        self._open()
        self._begin("predicting", self.params.get("steps"))

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Take the live line away."""
        self._screen.write()

    def _open(self) -> None:
        """Forget what was before, and look at the output: it may have changed."""
        for name in ("_screen", "_table"):
            self.__dict__.pop(name, None)
        self._rows.clear()
        self._epoch = 0
        self._epoch_began = perf_counter()
        self._due = 0.0  # when to refresh next

    def _begin(self, verb: str, steps: int | None) -> None:
        now = perf_counter()
        title = f"epoch {self._table.title(self._epoch)}" if self._fitting else ""
        self._stage = Stage(title, verb, steps, now, self._patience())
        self._count = 0
        if now >= self._due:
            self._refresh(0, None)

    def _patience(self) -> str:
        """Tell how much patience is left, once some of it is used up."""
        stopping = self.stopping if self._fitting else None
        if stopping is None or not 0 < stopping.wait <= stopping.patience:
            return ""
        return f"patience {stopping.patience - stopping.wait}/{stopping.patience}"

    def _refresh(self, done: int, logs: Logs | None) -> None:
        """Write what has gathered, and decide when to look again."""
        if self._screen.broken:
            self._due = math.inf
            return
        now = perf_counter()
        line = self._live_line(done, now, logs or {}) if self._screen.live else ""
        self._screen.write(self._take_lines(), line)
        end = perf_counter()
        self._due = end + min(max((end - now) / _SHARE, self.pause), _LONGEST_PAUSE)

    def _live_line(self, done: int, now: float, logs: Logs) -> str:
        return self._stage.line(done, self._count, now, logs, self._screen)

    def _take_lines(self) -> list[str]:
        lines = [line for row in self._rows for line in self._table.lines(row)]
        self._rows.clear()
        return lines
