"""The progress of a fit in a notebook: one output, updated in place, with a live plot."""

from __future__ import annotations

import base64
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from fitorch.callbacks.base import Logs

from .html import Page, PageTable
from .progress import Progress
from .rows import EpochCells

if TYPE_CHECKING:
    from fitorch.callbacks.trained_model import TrainedHistory

_SHARE = 0.02  # of the time for plots, at most

_MIN_PAUSE = 1.0  # seconds between two plots

_LONG = 3.0  # seconds; a longer epoch is drawn while it runs

_MAX_POINTS = 120  # of the curve within an epoch

_DPI, _FINAL_DPI = 90, 180  # during training, and of the last plot


class NotebookProgress(Progress):
    """Shows the progress of `Progress` in a notebook, and a plot of the history.

    Each fit has one output, updated in place at most four times a second. The plot is updated at
    most once a second, and takes at most a fiftieth of the time; a long epoch is drawn while it
    runs. No extension is needed, and a saved notebook keeps the last plot.

    Args:
        monitor: The metric whose best value so far is marked.
        mode: Whether `"min"` or `"max"` is best.
        plot: Whether to draw the loss and the monitored metric.
    """

    pause = 0.25

    def __init__(
        self, *, monitor: str | None = None, mode: str = "min", plot: bool = False
    ) -> None:
        super().__init__(1, monitor=monitor, mode=mode)
        self._plots = plot
        self._plot_due = 0.0
        self._curve: dict[str, list[tuple[float, float]]] = {}  # of the running epoch
        self._drawn = self._curve  # the same, once the epoch is long

    @cached_property
    def _screen(self) -> Page:  # type: ignore[override]
        return Page()

    @cached_property
    def _table(self) -> PageTable:  # type: ignore[override]
        epochs, directions = self.params.get("epochs"), self.directions
        return PageTable(EpochCells(epochs, self._monitor, self._mode, self.best, directions))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a table below the messages before training."""
        page = self._screen
        super().on_train_begin(logs)
        # `super().on_train_begin` has discarded the cached screen.
        self.__dict__["_screen"] = page  # one output for both
        self._plot_due = perf_counter() + _MIN_PAUSE
        self._drawn = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start an epoch's live line and its curve."""
        self._curve = {}
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add an epoch to the next refresh, and draw if a plot is due.

        From the second epoch on, the plot has one point per epoch.
        """
        super().on_epoch_end(epoch, logs)
        if self._epoch > 1:
            self._drawn = {}
        # Pauses grow with the time that a plot takes, so that plots take a fixed share at most.
        if perf_counter() >= self._plot_due:
            self._draw()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw the last plot."""
        if self._fitting:
            self._draw(_FINAL_DPI)
        super().on_train_end(logs)

    def _refresh(self, done: int, logs: Logs | None) -> None:
        """Draw if a plot is due and the epoch is long, then write."""
        now = perf_counter()
        if self._fitting and now - self._epoch_began >= _LONG and now >= self._plot_due:
            self._drawn = self._curve
            self._draw()
        super()._refresh(done, logs)

    def _live_line(self, done: int, now: float, logs: Logs) -> str:
        metrics = dict(logs.items())  # reads the values once
        steps = self.params.get("steps")
        if self._fitting and not self._stage.verb and steps and done:
            self._add_points(self._epoch - 1 + done / steps, metrics)
        return super()._live_line(done, now, metrics)

    def _add_points(self, epochs: float, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            if isinstance(value, float) and math.isfinite(value):
                points = self._curve.setdefault(name, [])
                points.append((epochs, value))
                if len(points) > _MAX_POINTS:
                    # Every second point is dropped, so that the curve keeps its shape with fewer
                    # points.
                    del points[1::2]

    def _draw(self, dpi: int = _DPI) -> None:
        """Draw the history if there is one; a failure is a warning and does not end training."""
        if not self._plots or not (len(self.model.history) > 1 or self._drawn):
            return
        counts = "matplotlib.figure" in sys.modules  # the import takes longer than any plot
        start = thread_time()  # perf_counter includes other processes on a busy machine
        try:
            self._screen.picture = _picture(self.model.history, self._monitor, self._drawn, dpi)
        except Exception as error:
            # There is one warning, not one for each refresh.
            self._plots = False
            warnings.warn(f"no live plot: {error}", stacklevel=2)
        pause = (thread_time() - start) / _SHARE if counts else 0.0
        self._plot_due = perf_counter() + max(_MIN_PAUSE, pause)


def _picture(
    history: TrainedHistory,
    monitor: str | None,
    running: Mapping[str, Sequence[tuple[float, float]]],
    dpi: int,
) -> str:
    """Return a plot of the loss and the monitored metric as an `<img>`, "" if there are none."""
    from fitorch.plotting.axes import small_png
    from fitorch.plotting.history import plot_history

    frame, prefixes = history.frame, ("train_", *history.sets)
    known = {*frame, *running}
    monitored = _metric_of(monitor, history) if monitor else "loss"
    wanted = list(dict.fromkeys(["loss", monitored]))
    names = [name for name in wanted if any(f"{prefix}{name}" in known for prefix in prefixes)]
    if not names:
        return ""
    best = history.best.get("epoch")
    figure = plot_history(frame, history.monitor, best, names, history.sets, running)
    width = 90 * figure.get_size_inches()[0]  # CSS pixels, for any resolution
    source = f"data:image/png;base64,{base64.b64encode(small_png(figure, dpi)).decode()}"
    return f'<img alt="history" style="width:{width:.0f}px;max-width:100%" src="{source}">'


def _metric_of(monitor: str, history: TrainedHistory) -> str:
    """Return the metric of a column: "acc" for val_acc."""
    prefixes = sorted(("train_", *history.sets), key=len, reverse=True)
    prefix = next((p for p in prefixes if monitor.startswith(p)), "")
    return monitor.removeprefix(prefix)
