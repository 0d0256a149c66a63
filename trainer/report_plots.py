"""The plots of a report: a picture for each figure, as data URLs."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .history import History

_MOST = 30  # figures; the rest are in the table
_LARGEST = 40_000  # bytes of a vector graphic; pixels do for more
_DPI = 170


def figures_of(history: History) -> list[str]:
    """Return the figures there are, as "acc" for `train_acc`: loss, the monitored one, others."""
    prefixes = sorted(("train_", *(history.sets or ("val_",))), key=len, reverse=True)
    names: dict[str, str] = {}
    for column in history.columns:
        prefix = next((each for each in prefixes if column.startswith(each)), None)
        if prefix is not None:
            names[column] = column.removeprefix(prefix)
    watched = names.get(history.monitor)
    return sorted(dict.fromkeys(names.values()), key=lambda name: (name != "loss", name != watched))


def pictures(history: History) -> list[tuple[str, str]]:
    """Draw the figures, but not more than a page can take.

    Returns:
        What each picture shows, and its data URL.
    """
    return [
        (f"{name} over the epochs", _data_url(history.plot(metrics=[name])))
        for name in figures_of(history)[:_MOST]
    ]


def _data_url(figure: Figure) -> str:
    """Return a picture as SVG, or as PNG where that would be large."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fitorch"}):
        vector = _saved(figure, "svg")
    if len(vector) <= _LARGEST:
        return f"data:image/svg+xml;base64,{b64encode(vector).decode()}"
    return f"data:image/png;base64,{b64encode(_saved(figure, 'png')).decode()}"


def _saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    dates = {"Date": None} if kind == "svg" else None
    figure.savefig(file, format=kind, dpi=_DPI, transparent=True, metadata=dates)
    return file.getvalue()
