"""Figures and axes in one look, and pictures of them."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """Save a figure where it is wanted in a file."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


INK = "#24292f"


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
