"""Pictures of a history."""

from __future__ import annotations

import math
import warnings
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fitorch.callbacks import Callback
from fitorch.callbacks.base import Logs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#24292f"
_TRAIN, _BEST = "#8a8f98", "#d9480f"
_VAL = ("#0b6bcb", "#1a7f64", "#8250df", "#a8780a", "#b8336a")  # of each validation set
_DASHED: Any = (0, (4, 2))
_SOLID: Any = "solid"
_IN_A_ROW = 3  # panels, at most
_ENOUGH = 8  # values, before anything is said about how they lie
_SPREAD = 30  # the largest by the smallest: one and a half decades
_CROWDED = 0.1  # of the range: below that lies half of a line


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
        figsize: Width and height in inches; None for what the panels need.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, path: Path, figsize: tuple[float, float] | None = None) -> None:
        self.path = path
        self.figsize = figsize

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw."""
        if not len(self.model.history):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.model.history.plot(self.path, figsize=self.figsize)
        except Exception as error:  # training is done: no picture is a reason to lose it
            warnings.warn(f"no plot at {self.path}: {error}", stacklevel=2)


def plot_history(
    frame: pd.DataFrame,
    monitor: str,
    best: float | None,
    metrics: list[str] | None = None,
    sets: Sequence[str] = ("val_",),
    running: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure:
    """Draw each figure of a history in a panel of its own, training and validation together.

    Panels stand in rows of three at most. The axis of a panel is logarithmic where that shows more:
    all its values are positive, the largest is 30 times the smallest or more, and half of a line
    lies in the lowest tenth of the range. Once that was so after some epoch, it stays.

    Args:
        frame: The history.
        monitor: The column that decides which epoch is best.
        best: The best epoch, counted from 1, or None.
        metrics: Which figures, as ["loss", "acc"]; None for all.
        sets: What the figures of each validation set begin with.
        running: Figures within an epoch, by column: how many epochs were over, and the value.

    Raises:
        ValueError: There is nothing to draw, or a metric is unknown.
    """
    from matplotlib.ticker import MaxNLocator

    running = running or {}
    lines = _lines(dict.fromkeys([*map(str, frame), *running]), sets or ("val_",))
    names = _names(lines, metrics)
    rows = math.ceil(len(names) / _IN_A_ROW)
    columns = math.ceil(len(names) / rows)
    figure = new_figure(4.8 * columns, 3.6 * rows)
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw_running(axes, frame, lines[name], running)
        _draw(axes, frame, lines[name], monitor, best)
        dress_axes(axes, name, "epoch")
        ticks = MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(ticks)
        _scale(axes, frame, lines[name])
    return figure


def _lines(columns: Iterable[str], sets: Sequence[str]) -> dict[str, list[Line]]:
    """Return for each figure its lines: training, then each validation set."""
    stages = [("train_", "train", _TRAIN, _DASHED)]
    for number, prefix in enumerate(sets):
        label = prefix.removeprefix("val_").removesuffix("_") or "validation"
        stages.append((prefix, label, _VAL[number % len(_VAL)], _SOLID))
    lines: dict[str, list[Line]] = {}
    for column in columns:
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
        if line.column not in frame:
            continue
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


def _draw_running(
    axes: Axes,
    frame: pd.DataFrame,
    lines: list[Line],
    running: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Draw how a figure got on within an epoch, fainter than what was measured at its end."""
    for line in lines:
        points = running.get(line.column, ())
        if points:
            label = "_" if line.column in frame else line.label
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, color=line.color, linewidth=1.2, alpha=0.6, label=label)
            if not len(frame):
                axes.set_xlim(math.floor(epochs[0]), math.ceil(epochs[-1]))


def _scale(axes: Axes, frame: pd.DataFrame, lines: list[Line]) -> None:
    """Choose between a linear and a logarithmic axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    columns = [frame[line.column].tolist() for line in lines if line.column in frame]
    data: list[Any] = [line.get_ydata() for line in axes.get_lines()]
    drawn = [value for values in data for value in values]
    if min(drawn, default=0) <= 0 or not _is_crowded(columns):
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high < 1e3 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _is_crowded(columns: Sequence[Iterable[float]]) -> bool:
    """Say whether, after some epoch, a line lay mostly far below the largest value of all."""
    ordered: list[list[float]] = [[] for _ in columns]
    for row in zip(*columns, strict=True):
        for values, value in zip(ordered, row, strict=True):
            if math.isfinite(value):
                insort(values, value)
        lines = [values for values in ordered if values]
        if sum(map(len, lines)) < _ENOUGH:
            continue
        low, high = min(values[0] for values in lines), max(values[-1] for values in lines)
        middle = min(values[len(values) // 2] for values in lines)
        if high >= _SPREAD * low and middle - low <= _CROWDED * (high - low):
            return True
    return False


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


def small_png(figure: Figure, dpi: int) -> bytes:
    """Return a picture of a history as a PNG that is quick to make and small: 64 colours.

    Args:
        figure: Panels side by side, as `plot_history` makes them.
        dpi: Dots an inch.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    width, height = figure.get_size_inches()
    panels = len(figure.axes)
    figure.set_layout_engine("none")  # to measure all labels takes as long as to draw them
    for place, axes in enumerate(figure.axes):
        left = width / panels * place + 0.7
        box = (left / width, 0.52 / height, 1 / panels - 0.85 / width, 1 - 0.9 / height)
        axes.set_position(box)
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)  # parts of it have no types
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = BytesIO()
    image.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, format="png"
    )
    return buffer.getvalue()


def dress_axes(axes: Axes, title: str, x_label: str) -> None:
    """Give a panel with labelled lines its title, its legend and our looks."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.grid(axis="y", color="#d8dce1", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa1a9")
    axes.tick_params(colors=INK, length=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
