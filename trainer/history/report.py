"""A run on one page: an HTML file that needs nothing else."""

from __future__ import annotations

import io
import math
import time
from base64 import b64encode
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from fitorch import files as disk
from fitorch.callbacks.display import number_format as figures

from . import report_html
from .report_sections import (
    ReportedHistory,
    brief,
    ending_of,
    environment_of,
    fits_table,
    history_table,
    settings_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Card = tuple[str, str, str]


def write_report(history: ReportedHistory, path: str | Path) -> Path:
    """Write a report; see `History.to_html`."""
    if not len(history):
        message = "the history is empty; fit the model first"
        raise ValueError(message)
    path = Path(path)
    content = report(history).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, content)
    except OSError as error:
        message = f"the report can't be written to {path.absolute()}: {error.strerror or error}"
        raise OSError(error.errno, message) from error
    return path


def report(history: ReportedHistory) -> str:
    """Return the page of a history that is not empty."""
    last = history.fits[-1] if history.fits else None
    title = last.net if last else "A run"
    several = last is not None and last.first > 0
    parts = [
        report_html.header(title, _subtitle(history), last.status if last else ""),
        report_html.cards([_best(history), *_counts(history)]),
        ending_of(last),
        _plots(history),
        history_table(history),
        fits_table(history),
        report_html.pair(
            settings_of(last, "Settings of the last fit" if several else "Settings"),
            environment_of(last),
        ),
        report_html.footer(f"Written by fitorch {_version()}, {_date(time.time())}"),
    ]
    return report_html.page(f"{title}: report of a run", parts)


def _subtitle(history: ReportedHistory) -> str:
    if not history.fits:
        return "Settings and environment are not known: the history is a checkpoint's, or VLog's."
    last = history.fits[-1]
    return f"{_date(last.began)}, on {last.environment['device']}"


def _best(history: ReportedHistory) -> Card:
    best, monitor = history.best, history.monitor
    if not best:
        return f"best {monitor}", "-", "never measured"
    return f"best {monitor}", figures.number(best[monitor]), f"epoch {best['epoch']:.0f}"


def _counts(history: ReportedHistory) -> list[Card]:
    """Return how many epochs, how long they took, and how large the net is, as far as known."""
    last = history.fits[-1] if history.fits else None
    columns = history.columns
    epochs = int(columns["epoch"][-1])
    times = [seconds for seconds in columns["seconds"] if not math.isnan(seconds)]
    total = sum(times)
    each = f"{brief(total / len(times))} per epoch" if times else ""
    asked = f"of {last.last_epoch:,}" if last else ""
    counts = [("epochs", f"{epochs:,}", asked), ("time", figures.duration(total), each)]
    return [*counts, ("parameters", f"{last.parameters:,}", last.net)] if last else counts


def _plots(history: ReportedHistory) -> str:
    names, drawn = figures_of(history), pictures(history)
    if not drawn:
        return ""
    rest = f"{len(drawn)} of {len(names)} figures are drawn." if len(drawn) < len(names) else ""
    return report_html.section("Plots", report_html.images(drawn), report_html.note(rest))


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds)).strip()


def _version() -> str:
    try:
        return metadata.version("fitorch")
    except metadata.PackageNotFoundError:  # run from its source
        return ""


_MOST = 30  # figures; the rest are in the table

_LARGEST = 40_000  # bytes of a vector graphic; pixels do for more

_DPI = 170


def figures_of(history: ReportedHistory) -> list[str]:
    """Return the figures there are, as "acc" for `train_acc`: loss, the monitored one, others."""
    prefixes = sorted(("train_", *(history.sets or ("val_",))), key=len, reverse=True)
    names: dict[str, str] = {}
    for column in history.columns:
        prefix = next((each for each in prefixes if column.startswith(each)), None)
        if prefix is not None:
            names[column] = column.removeprefix(prefix)
    watched = names.get(history.monitor)
    return sorted(dict.fromkeys(names.values()), key=lambda name: (name != "loss", name != watched))


def pictures(history: ReportedHistory) -> list[tuple[str, str]]:
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
