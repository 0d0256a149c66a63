"""Pictures of a history."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fitorch.callbacks import Callback
from fitorch.callbacks.base import Logs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRAIN, _BEST, _INK = "#8a8f98", "#d9480f", "#24292f"
_VAL = ("#0b6bcb", "#1a7f64", "#8250df", "#a8780a", "#b8336a")  # of each validation set
_DASHED: Any = (0, (4, 2))
_SOLID: Any = "solid"
_IN_A_ROW = 3  # panels, at most


class Line(NamedTuple):
    """A line of a panel: its column, its label in the legend, its colour and dashes."""

    column: str
    label: str
    color: str
    style: Any


class HistoryPlot(Callback):
    """Draws the history to a file at the end of training, whatever ended it.

    Args:
        path: The file; its suffix decides the format. Where it can't be written, a warning says so
            and training's result is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw."""
        if not len(self.model.history):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.model.history.plot(self.path)
        except OSError as error:
            warnings.warn(f"no plot at {self.path}: {error}", stacklevel=2)


def plot_history(
    frame: pd.DataFrame,
    monitor: str,
    best: float | None,
    metrics: list[str] | None = None,
    sets: Sequence[str] = ("val_",),
) -> Figure:
    """Draw each figure of a history in a panel of its own, training and validation together.

    Panels stand in rows of three at most.

    Args:
        frame: The history.
        monitor: The column that decides which epoch is best.
        best: The best epoch, counted from 1, or None.
        metrics: Which figures, as ["loss", "acc"]; None for all.
        sets: What the figures of each validation set begin with.

    Raises:
        ValueError: There is nothing to draw, or a metric is unknown.
    """
    from matplotlib.ticker import MaxNLocator

    lines = _lines(frame, sets or ("val_",))
    names = _names(lines, metrics)
    rows = math.ceil(len(names) / _IN_A_ROW)
    columns = math.ceil(len(names) / rows)
    figure = new_figure(4.8 * columns, 3.6 * rows)
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw(axes, frame, lines[name], monitor, best)
        dress_axes(axes, name, "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _lines(frame: pd.DataFrame, sets: Sequence[str]) -> dict[str, list[Line]]:
    """Return for each figure its lines: training, then each validation set."""
    stages = [("train_", "train", _TRAIN, _DASHED)]
    for number, prefix in enumerate(sets):
        label = prefix.removeprefix("val_").removesuffix("_") or "validation"
        stages.append((prefix, label, _VAL[number % len(_VAL)], _SOLID))
    lines: dict[str, list[Line]] = {}
    for column in map(str, frame):
        found = [stage for stage in stages if column.startswith(stage[0])]
        if found:  # of two sets, one's name may begin like the other's
            prefix, label, color, style = max(found, key=lambda stage: len(stage[0]))
            line = Line(column, label, color, style)
            lines.setdefault(column.removeprefix(prefix), []).append(line)
    return lines


def _names(lines: dict[str, list[Line]], metrics: list[str] | None) -> list[str]:
    known = list(lines)
    if not known:
        message = "the history is empty; fit the model first"
        raise ValueError(message)
    for name in metrics or ():
        if name not in known:
            message = f"the history has no figure {name!r}; it has {known}"
            raise ValueError(message)
    return list(metrics or known)


def _draw(
    axes: Axes, frame: pd.DataFrame, lines: list[Line], monitor: str, best: float | None
) -> None:
    for line in lines:
        measured = frame[frame[line.column].notna()]
        if len(measured):
            axes.plot(
                measured["epoch"],
                measured[line.column],
                label=line.label,
                linewidth=1.8,
                marker="o" if len(measured) < 25 else "",
                markersize=3.5,
                color=line.color,
                linestyle=line.style,
            )
    if best is not None and monitor in {line.column for line in lines}:
        value = frame.loc[frame["epoch"] == best, monitor].iloc[0]
        label = f"best: {value:.4g} in epoch {best:.0f}"
        axes.plot([best], [value], "*", color=_BEST, markersize=13, label=label, zorder=5)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that no window shows, but a notebook does."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def dress_axes(axes: Axes, title: str, x_label: str) -> None:
    """Give a panel with labelled lines its title, its legend and our looks."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel(x_label, color=_INK)
    axes.grid(axis="y", color="#d8dce1", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa1a9")
    axes.tick_params(colors=_INK, length=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
