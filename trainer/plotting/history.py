"""Plots of a history: training and validation over the epochs."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fitorch.metrics.registry import METRICS

from .axes import dress_axes, new_figure, save_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LineStyle: TypeAlias = str | tuple[int, tuple[int, int]]

_MODES = ("auto", "min", "max")

_TRAIN, _BEST = "#8a8f98", "#d9480f"

_VAL = ("#0b6bcb", "#1a7f64", "#8250df", "#a8780a", "#b8336a")  # of each validation set

_DASHED: _LineStyle = (0, (4, 2))

_SOLID: _LineStyle = "solid"

_PER_ROW = 3  # axes, at most

_MIN_VALUES = 8  # before the scale is chosen by their distribution

_MIN_RATIO = 30  # of the largest to the smallest value: one and a half decades

_CROWDED = 0.1  # of the range, which contains half of a line


def plot_metric(
    dfhistory: pd.DataFrame, metric: str, mode: str = "auto", path: str | Path | None = None
) -> Figure:
    """Draw a metric of a history over the epochs, training and validation, with a star at the best.

    Args:
        dfhistory: The DataFrame that `fit` returned.
        metric: The metric: "loss", "auc"; "val_auc" is the same.
        mode: Whether "min" or "max" is best; "auto" knows it for losses and for named metrics, and
            draws no star for others.
        path: The image file; its suffix decides the format.

    Returns:
        The matplotlib figure; a notebook shows it as the result of a cell.

    Raises:
        ValueError: The history does not have the metric, or `mode` is unknown.
        TypeError: `dfhistory` is not a DataFrame.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"epoch": [1, 2], "train_auc": [0.7, 0.8], "val_auc": [0.6, 0.7]})
        >>> plot_metric(frame, "auc").axes[0].get_title(loc="left")
        'auc'
    """
    if not hasattr(dfhistory, "columns"):
        message = (
            f"dfhistory is a {type(dfhistory).__name__}; expected the DataFrame that fit returned, "
            "or model.history.frame"
        )
        raise TypeError(message)
    if mode not in _MODES:
        message = f"mode={mode!r}; expected one of {_MODES}"
        raise ValueError(message)
    columns = [str(column) for column in dfhistory]
    name = metric.removeprefix("train_").removeprefix("val_")
    sets = _sets(columns, name)
    monitor = f"{sets[0]}{name}" if sets else f"train_{name}"
    best = _best_epoch(dfhistory, monitor, name, mode)
    return save_figure(plot_history(dfhistory, monitor, best, [name], sets or ("val_",)), path)


def _sets(columns: list[str], name: str) -> list[str]:
    """Return the prefixes of a metric's validation columns: "val_", "val_clean_"."""
    trained = {column.removeprefix("train_") for column in columns if column.startswith("train_")}
    # "val_noisy_loss" belongs to a metric "noisy_loss", if there is one, not to a set "noisy".
    others = {f"val_{metric}" for metric in trained if metric != name}
    validated = [c for c in columns if c.startswith("val_") and c.endswith(f"_{name}")]
    return [column.removesuffix(name) for column in validated if column not in others]


def _best_epoch(frame: pd.DataFrame, column: str, name: str, mode: str) -> float | None:
    """Return the epoch of the best value, None if there is none or `mode` is not known."""
    if mode == "auto":
        entry = METRICS.get(name)
        loss = name == "loss" or name.endswith("_loss")
        mode = "min" if loss else "" if entry is None else ("min", "max")[entry.higher_is_better]
    values = frame[column].to_numpy(float) if column in frame else np.array([])
    if not mode or not np.isfinite(values).any():
        return None
    row = np.nanargmin(values) if mode == "min" else np.nanargmax(values)
    return float(frame["epoch"].to_numpy()[row])


class Line(NamedTuple):
    """A line of a plot: its column, its label in the legend, its colour and its dashes."""

    column: str
    label: str
    color: str
    style: _LineStyle


def plot_history(
    frame: pd.DataFrame,
    monitor: str,
    best: float | None,
    metrics: list[str] | None = None,
    sets: Sequence[str] = ("val_",),
    running: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure:
    """Draw each metric of a history in its own axes, training and validation together.

    Axes are in rows of at most three. An axis is logarithmic if that shows more: all values are
    positive, the largest is at least 30 times the smallest, and half of a line is in the lowest
    tenth of the range. Once that holds after some epoch, the axis stays logarithmic.

    Args:
        frame: The history.
        monitor: The column that decides which epoch is best.
        best: The best epoch, counted from 1, or None.
        metrics: The metrics, as ["loss", "acc"]; None for all.
        sets: The prefix of the metrics of each validation set.
        running: Values within the running epoch, by column: completed epochs, and the value.

    Raises:
        ValueError: The history is empty, or a metric is unknown.
    """
    from matplotlib.ticker import MaxNLocator

    running = running or {}
    lines = _lines(dict.fromkeys([*map(str, frame), *running]), sets or ("val_",))
    names = _names(lines, metrics)
    rows = math.ceil(len(names) / _PER_ROW)
    columns = math.ceil(len(names) / rows)
    figure = new_figure(4.8 * columns, 3.6 * rows)
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, place)
        # The running epoch lies below the line of finished epochs.
        _draw_running(axes, frame, lines[name], running)
        _draw(axes, frame, lines[name], monitor, best)
        dress_axes(axes, name, "epoch")
        ticks = MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(ticks)
        _scale(axes, frame, lines[name])
    return figure


def _lines(columns: Iterable[str], sets: Sequence[str]) -> dict[str, list[Line]]:
    """Return the lines of each metric: training, then each validation set."""
    stages = [("train_", "train", _TRAIN, _DASHED)]
    for number, prefix in enumerate(sets):
        label = prefix.removeprefix("val_").removesuffix("_") or "validation"
        stages.append((prefix, label, _VAL[number % len(_VAL)], _SOLID))
    lines: dict[str, list[Line]] = {}
    for column in columns:
        matching = [stage for stage in stages if column.startswith(stage[0])]
        if matching:  # the prefix of one set may be the start of another's
            prefix, label, color, style = max(matching, key=lambda stage: len(stage[0]))
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
            message = f"the history has no metric {name!r}; it has {known}"
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
    """Draw the values within the running epoch, fainter than those of finished epochs."""
    for line in lines:
        points = running.get(line.column, ())
        if points:
            # A line with "_" has no entry in the legend, in which the column has one already.
            label = "_" if line.column in frame else line.label
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, color=line.color, linewidth=1.2, alpha=0.6, label=label)
            if not len(frame):
                # In the first epoch there is no other line that sets the limits.
                axes.set_xlim(math.floor(epochs[0]), math.ceil(epochs[-1]))


def _scale(axes: Axes, frame: pd.DataFrame, lines: list[Line]) -> None:
    """Choose between a linear and a logarithmic axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    columns = [frame[line.column].tolist() for line in lines if line.column in frame]
    data: list[Any] = [line.get_ydata() for line in axes.get_lines()]
    drawn = [value for values in data for value in values]
    # A logarithm needs positive values.
    if min(drawn, default=0) <= 0 or not _is_crowded(columns):
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high < 1e3 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _is_crowded(columns: Sequence[Iterable[float]]) -> bool:
    """Return whether, after some epoch, most of a line is far below the largest value."""
    ordered: list[list[float]] = [[] for _ in columns]
    # Each epoch is tested, because the axis must not change back when later values spread.
    for row in zip(*columns, strict=True):
        for values, value in zip(ordered, row, strict=True):
            if math.isfinite(value):
                insort(values, value)
        lines = [values for values in ordered if values]
        if sum(map(len, lines)) < _MIN_VALUES:
            continue
        low, high = min(values[0] for values in lines), max(values[-1] for values in lines)
        middle = min(values[len(values) // 2] for values in lines)
        if high >= _MIN_RATIO * low and middle - low <= _CROWDED * (high - low):
            return True
    return False
