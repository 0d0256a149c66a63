"""Matplotlib figures and axes in a common style, and PNGs of them."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK = "#24292f"


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """Save a figure if there is a path; return the figure."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches: without a window, but shown in notebooks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches
    figure = Figure(figsize=(width, height), layout=layout)
    # pyplot would keep all figures, and may open windows.
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def small_png(figure: Figure, dpi: int) -> bytes:
    """Return a small PNG of a history with 64 colours, quickly.

    Args:
        figure: A figure with axes side by side, as of `plot_history`.
        dpi: The resolution, in dots per inch.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    width, height = figure.get_size_inches()
    panels = len(figure.axes)
    figure.set_layout_engine("none")  # measuring all labels takes as long as drawing them
    for place, axes in enumerate(figure.axes):
        left = width / panels * place + 0.7
        box = (left / width, 0.52 / height, 1 / panels - 0.85 / width, 1 - 0.9 / height)
        axes.set_position(box)
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)  # it is partly untyped
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = BytesIO()
    # Few colours make a picture small, and a notebook keeps each of them.
    image.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, format="png"
    )
    return buffer.getvalue()


def dress_axes(axes: Axes, title: str, x_label: str) -> None:
    """Set title, label, legend and style of axes whose lines are labelled."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.grid(axis="y", color="#d8dce1", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa1a9")
    axes.tick_params(colors=INK, length=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
