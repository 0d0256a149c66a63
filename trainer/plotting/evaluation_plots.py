"""Plots of an evaluation: confusion matrix, ROC curves, predictions over targets, residuals.

Lines differ in colour, and for readers without colour in their dashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST

from .axes import INK, dress_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_FAINT, _BLUE, _RED = "#8a8f98", "#0b6bcb", "#d9480f"

_COLORS = (_BLUE, _RED, "#1a7f64", "#8250df", "#a8780a", "#b8336a")

_DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (1.5, 1.2)),
    (0, (6, 2, 1.5, 2)),
    (0, (1.5, 4)),
    (0, (12, 2)),
    (0, (6, 2, 1.5, 2, 1.5, 2)),
)

_IN_LEGEND = 12  # curves, at most

_MAX_DOTS = 20_000  # of a scatter plot

_NUMBERED = 30  # classes, at most, of a matrix with numbers in its cells

_SHARES = {"true": "share of the true class", "pred": "share of the prediction", "all": "share"}


def draw_matrix(
    axes: Axes, counts: Tensor, names: list[str], normalize: str | None, cell: float
) -> None:
    """Draw a confusion matrix.

    Args:
        axes: The axes to draw into.
        counts: The samples by true class (rows) and predicted class (columns), (C, C).
        names: The classes.
        normalize: None for counts; fractions of "true" (rows), "pred" (columns) or "all".
        cell: The width of a cell, in points.
    """
    shown = (counts if normalize is None else _shares(counts, normalize)).numpy()
    top = max(1, shown.max()) if normalize is None else 1
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=top)
    if len(names) <= _NUMBERED:
        texts = [[_cell_text(value, normalize) for value in row] for row in shown]
        widest = max(len(text) for row in texts for text in row)
        # The longest number decides for all cells.
        size = min(12.0, cell / (0.9 * max(3, widest)))
        for row, column in np.ndindex(shown.shape):
            dark = shown[row, column] > top / 2
            axes.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else INK if shown[row, column] else _FAINT,
            )
    long = max(map(len, names)) > 3 and len(names) > 3
    small = min(10.0, max(5.0, 0.5 * cell))
    axes.set_xticks(
        range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center"
    )
    axes.set_yticks(range(len(names)), names, rotation=0)
    axes.tick_params(colors=INK, length=0, labelsize=small)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", color=INK, fontsize=10)
    axes.set_ylabel("true class", color=INK, fontsize=10)
    right, total = int(counts.diagonal().sum()), int(counts.sum())
    title = f"{right:,} of {total:,} right ({right / max(1, total):.1%})"
    title += f", {_SHARES[normalize]}" if normalize is not None else ""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)


def draw_curve(
    axes: Axes, scores: Tensor, positive: Tensor, weight: Tensor | None, number: int, name: str
) -> None:
    """Draw a ROC curve, with its exact area in the legend.

    Args:
        axes: The axes to draw into.
        scores: The score of each sample, (N,).
        positive: Whether each sample is of the class, (N,).
        weight: The weight of each sample, (N,), or None.
        number: The number of the curve, which decides colour and dashes.
        name: The class, or "".
    """
    from fitorch.metrics.ranking import AUC

    metric = AUC()
    metric.update(scores, positive, weight)
    area, before = metric.compute().item(), f"{name}: " if name else ""
    label = f"{before}AUC = {area:.4f}"
    # NaN: one of the classes is missing.
    if area != area:
        missing = "positive" if not positive.any() else "negative"
        label, points = f"{before}no {missing} samples", torch.zeros(2, 0, device=HOST)
    else:
        # The counts go from the highest score down: each threshold adds the samples above it.
        points = _corners(*(count.flip(0).cumsum(0) for count in reversed(metric.counts())))
    hidden = number >= _IN_LEGEND
    axes.plot(
        *points.numpy(),
        label=f"_{label}" if hidden else label,
        color=_COLORS[number % len(_COLORS)],
        linestyle=_DASHES[number % len(_DASHES)],
        linewidth=1.8,
    )


def draw_chance(axes: Axes, title: str) -> None:
    """Complete axes of ROC curves: the diagonal, the limits and the legend."""
    lines = [line for line in axes.get_lines() if str(line.get_label()).startswith("_")]
    if lines:
        axes.plot([], [], " ", label=f"and {len(lines)} more")
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle=(0, (2, 2)), label="chance")
    dress_axes(axes, title, "false positive rate")
    axes.set_ylabel("true positive rate", color=INK)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def draw_scatter(axes: Axes, y_true: Tensor, y_pred: Tensor, name: str) -> None:
    """Draw predictions over targets, both (N,), with a diagonal line."""
    # Every n-th sample is drawn, so that the picture does not depend on random numbers.
    step = -(-len(y_true) // _MAX_DOTS)
    label = "samples" if step == 1 else f"every {step}th of {len(y_true):,} samples"
    size, alpha = (26.0, 0.55) if len(y_true) <= 300 else (10.0, 0.3)
    axes.scatter(
        y_true[::step].numpy(),
        y_pred[::step].numpy(),
        s=size,
        alpha=alpha,
        color=_BLUE,
        linewidths=0,
        # Vectors would make a file of thousands of dots slow to show.
        rasterized=True,
    )
    axes.plot([], [], "o", color=_BLUE, alpha=0.7, markersize=5, markeredgewidth=0, label=label)
    ends = [min(y_true.min(), y_pred.min()).item(), max(y_true.max(), y_pred.max()).item()]
    axes.plot(ends, ends, color=_RED, linewidth=1.4, linestyle=(0, (6, 2)), label="equal")
    spread = (y_true - y_true.mean()).square().sum()
    r2 = (1 - (y_true - y_pred).square().sum() / spread).item() if spread else float("nan")
    dress_axes(axes, f"{name + ': ' if name else ''}R² = {r2:.4f}", "true")
    axes.set_ylabel("predicted", color=INK)


def draw_histogram(axes: Axes, residuals: Tensor) -> None:
    """Draw a histogram of the residuals, prediction - target, (N,)."""
    bins = min(60, max(8, round(2 * len(residuals) ** (1 / 3))))
    heights, _, _ = axes.hist(
        residuals.numpy(), bins=bins, color="#5b9bdc", edgecolor="white", linewidth=0.6
    )
    axes.set_ylim(0, 1.2 * np.max(heights))  # room for the legend
    mean, deviation = residuals.mean().item(), residuals.std(correction=0).item()
    axes.axvline(0, ymax=0.84, color=INK, linewidth=1)
    label = f"mean {mean:.3g}, deviation {deviation:.3g}"
    axes.axvline(mean, ymax=0.84, color=_RED, linewidth=1.4, linestyle=(0, (6, 2)), label=label)
    dress_axes(axes, "residuals", "predicted - true")
    axes.set_ylabel("samples", color=INK)


def _cell_text(value: float, normalize: str | None) -> str:
    return f"{value:,}" if normalize is None else f"{value:.2f}"


def _shares(counts: Tensor, normalize: str) -> Tensor:
    dims = {"true": (1,), "pred": (0,), "all": (0, 1)}[normalize]
    return counts / counts.sum(dims, keepdim=True).clamp(min=1)


def _corners(false: Tensor, true: Tensor) -> Tensor:
    """Return the rates of a curve, (2, K), without points on straight segments."""
    points = torch.stack([torch.cat([part.new_zeros(1), part]) for part in (false, true)]).double()
    steps = points.diff(dim=1)
    # Two steps have the same slope if their cross products are equal, without a division.
    turns = steps[0, :-1] * steps[1, 1:] != steps[1, :-1] * steps[0, 1:]
    end = torch.ones(1, dtype=torch.bool, device=HOST)
    return points[:, torch.cat([end, turns, end])] / points[:, -1:]
