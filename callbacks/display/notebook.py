"""What people see in a notebook: one output that is updated in place, with a live plot."""

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

_SHARE = 0.02  # of the time may go into drawing

_PAUSE = 1.0  # seconds between two plots, at least

_LONG = 3.0  # seconds, after which an epoch is drawn before it is over

_POINTS = 120  # of an epoch's curve, at most

_DPI, _FINE = 90, 180  # dots an inch: while it trains, and of the picture that stays


class NotebookProgress(Progress):
    """Shows in a notebook what `Progress` shows on a terminal, and a plot of the history.

    There is one output per fit. It is updated in place, at most four times a second, the plot at
    most once and so that drawing takes a fiftieth of the time; an epoch that lasts is drawn while
    it runs. Nothing has to be installed for that, and a finished notebook keeps the last picture.

    Args:
        monitor: The figure whose best value so far is marked.
        mode: `"min"` or `"max"`, what is best.
        plot: Whether to draw the loss and the monitored figure.
    """

    pause = 0.25

    def __init__(
        self, *, monitor: str | None = None, mode: str = "min", plot: bool = False
    ) -> None:
        super().__init__(1, monitor=monitor, mode=mode)
        self._plots = plot
        self._plot_due = 0.0
        self._curve: dict[str, list[tuple[float, float]]] = {}  # of the running epoch
        self._drawn = self._curve  # the same, once that epoch lasts

    @cached_property
    def _screen(self) -> Page:  # type: ignore[override]
        return Page()

    @cached_property
    def _table(self) -> PageTable:  # type: ignore[override]
        epochs, directions = self.params.get("epochs"), self.directions
        return PageTable(EpochCells(epochs, self._monitor, self._mode, self.best, directions))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Go on below what was said before training."""
        page = self._screen
        super().on_train_begin(logs)
        self.__dict__["_screen"] = page  # one output for both
        self._plot_due = perf_counter() + _PAUSE
        self._drawn = {}

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start an epoch's live line and its curve."""
        self._curve = {}
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep an epoch's figures for the next refresh, and draw where it is time.

        Where there are several epochs, a point each stands for them.
        """
        super().on_epoch_end(epoch, logs)
        if self._epoch > 1:
            self._drawn = {}
        if perf_counter() >= self._plot_due:
            self._draw()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw the last picture."""
        if self._fitting:
            self._draw(_FINE)
        super().on_train_end(logs)

    def _refresh(self, done: int, logs: Logs | None) -> None:
        """Draw where it is time and the epoch lasts, then write."""
        now = perf_counter()
        if self._fitting and now - self._epoch_began >= _LONG and now >= self._plot_due:
            self._drawn = self._curve
            self._draw()
        super()._refresh(done, logs)

    def _live_line(self, done: int, now: float, logs: Logs) -> str:
        figures = dict(logs.items())  # reads them once
        steps = self.params.get("steps")
        if self._fitting and not self._stage.verb and steps and done:
            self._add_points(self._epoch - 1 + done / steps, figures)
        return super()._live_line(done, now, figures)

    def _add_points(self, epochs: float, figures: Mapping[str, Any]) -> None:
        for name, value in figures.items():
            if isinstance(value, float) and math.isfinite(value):
                points = self._curve.setdefault(name, [])
                points.append((epochs, value))
                if len(points) > _POINTS:
                    del points[1::2]

    def _draw(self, dpi: int = _DPI) -> None:
        """Draw where there is something to draw; training is not lost where that fails."""
        if not self._plots or not (len(self.model.history) > 1 or self._drawn):
            return
        counts = "matplotlib.figure" in sys.modules  # to load it takes longer than any drawing
        began = thread_time()  # on a busy machine the other clock counts what others do
        try:
            self._screen.picture = _picture(self.model.history, self._monitor, self._drawn, dpi)
        except Exception as error:
            self._plots = False
            warnings.warn(f"no live plot: {error}", stacklevel=2)
        pause = (thread_time() - began) / _SHARE if counts else 0.0
        self._plot_due = perf_counter() + max(_PAUSE, pause)


def _picture(
    history: TrainedHistory,
    monitor: str | None,
    running: Mapping[str, Sequence[tuple[float, float]]],
    dpi: int,
) -> str:
    """Return the loss and the monitored figure over the epochs, as an `<img>`, if there are any."""
    from fitorch.plotting.axes import small_png
    from fitorch.plotting.history import plot_history

    frame, prefixes = history.frame, ("train_", *history.sets)
    known = {*frame, *running}
    watched = _figure_of(monitor, history) if monitor else "loss"
    wanted = ["loss"] if watched == "loss" else ["loss", watched]
    names = [name for name in wanted if any(f"{prefix}{name}" in known for prefix in prefixes)]
    if not names:
        return ""
    best = history.best.get("epoch")
    figure = plot_history(frame, history.monitor, best, names, history.sets, running)
    width = 90 * figure.get_size_inches()[0]  # pixels, however many dots it has
    source = f"data:image/png;base64,{base64.b64encode(small_png(figure, dpi)).decode()}"
    return f'<img alt="history" style="width:{width:.0f}px;max-width:100%" src="{source}">'


def _figure_of(monitor: str, history: TrainedHistory) -> str:
    """Return the figure of a column: "acc" for val_acc."""
    prefixes = sorted(("train_", *history.sets), key=len, reverse=True)
    prefix = next((p for p in prefixes if monitor.startswith(p)), "")
    return monitor.removeprefix(prefix)
