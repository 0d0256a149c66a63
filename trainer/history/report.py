"""A run on one page: an HTML file without links to other files."""

from __future__ import annotations

import io
import math
import time
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitorch import files as disk
from fitorch.callbacks.display import number_format
from fitorch.templates.rendering import render
from fitorch.version import version_of

from .report_sections import (
    ReportedHistory,
    ending_section,
    environment_section,
    epochs_section,
    fits_section,
    short_duration,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Card = tuple[str, str, str]  # a name, its value, and a note below

_MOST_PLOTS = 30  # the other columns are in the table

_LARGEST_SVG = 40_000  # bytes; a larger plot becomes a PNG

_DPI = 170


def write_report(history: ReportedHistory, path: str | Path) -> Path:
    """Write a report; see `History.to_html`."""
    if not len(history):
        message = "the history is empty; fit the model first"
        raise ValueError(message)
    path = Path(path)
    content = report(history).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A report that is open in a browser is replaced as a whole.
        disk.replace(path, content)
    except OSError as error:
        message = f"cannot write the report to {path.absolute()}: {error.strerror or error}"
        raise OSError(error.errno, message) from error
    return path


def report(history: ReportedHistory) -> str:
    """Return the HTML of a history that is not empty."""
    last = history.fits[-1] if history.fits else None
    settings = None
    if last is not None:
        title = "Settings of the last fit" if last.first else "Settings"
        settings = {"title": title, "facts": last.settings}
    return render(
        "report.html.jinja",
        title=last.net if last else "A run",
        subtitle=_subtitle(history),
        status=last.status if last else "",
        cards=[_best(history), *_counts(history)],
        ending=last and ending_section(last),
        plots=_plots_section(history),
        epochs=epochs_section(history),
        fits=fits_section(history),
        settings=settings,
        environment=last and environment_section(last),
        footer=f"Written by fitorch {version_of('fitorch')}, {_date(time.time())}",
    )


def _subtitle(history: ReportedHistory) -> str:
    if not history.fits:
        return (
            "Settings and environment are not known, because the history comes from a checkpoint "
            "or from VLog."
        )
    last = history.fits[-1]
    return f"{_date(last.began)}, on {last.environment['device']}"


def _best(history: ReportedHistory) -> Card:
    best, monitor = history.best, history.monitor
    if not best:
        return f"best {monitor}", "-", "never measured"
    return f"best {monitor}", number_format.number(best[monitor]), f"epoch {best['epoch']:.0f}"


def _counts(history: ReportedHistory) -> list[Card]:
    """Return the number of epochs, their time, and the size of the net if it is known."""
    last = history.fits[-1] if history.fits else None
    columns = history.columns
    epochs = int(columns["epoch"][-1])
    times = [seconds for seconds in columns["seconds"] if not math.isnan(seconds)]
    total = sum(times)
    per_epoch = f"{short_duration(total / len(times))} per epoch" if times else ""
    requested = f"of {last.last_epoch:,}" if last else ""
    counts = [
        ("epochs", f"{epochs:,}", requested),
        ("time", number_format.duration(total), per_epoch),
    ]
    return [*counts, ("parameters", f"{last.parameters:,}", last.net)] if last else counts


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds)).strip()


def _plots_section(history: ReportedHistory) -> dict[str, Any]:
    names, drawn = metric_names(history), pictures(history)
    note = f"{len(drawn)} of {len(names)} metrics are drawn." if len(drawn) < len(names) else ""
    return {"pictures": drawn, "note": note}


def metric_names(history: ReportedHistory) -> list[str]:
    """Return the metrics of a history, "acc" for `train_acc`: loss, the monitored one, others."""
    # The longest prefix comes first: "val_" begins "val_clean_" too.
    prefixes = sorted(("train_", *(history.sets or ("val_",))), key=len, reverse=True)
    names: dict[str, str] = {}
    for column in history.columns:
        prefix = next((prefix for prefix in prefixes if column.startswith(prefix)), None)
        if prefix is not None:
            names[column] = column.removeprefix(prefix)
    monitored = names.get(history.monitor)
    order = dict.fromkeys(names.values())
    return sorted(order, key=lambda name: (name != "loss", name != monitored))


def pictures(history: ReportedHistory) -> list[tuple[str, str]]:
    """Draw the metrics, at most as many as a browser shows smoothly.

    Returns:
        The caption of each picture, and its data URL.
    """
    return [
        (f"{name} over the epochs", _data_url(history.plot(metrics=[name])))
        for name in metric_names(history)[:_MOST_PLOTS]
    ]


def _data_url(figure: Figure) -> str:
    """Return a plot as SVG, or as PNG if the SVG is large."""
    import matplotlib as mpl

    # Text stays text, which browsers select and search, and the same plot has the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fitorch"}):
        svg = _image(figure, "svg")
    if len(svg) <= _LARGEST_SVG:
        return f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
    return f"data:image/png;base64,{b64encode(_image(figure, 'png')).decode()}"


def _image(figure: Figure, extension: str) -> bytes:
    file = io.BytesIO()
    # Without the date, the same plot has the same bytes.
    metadata = {"Date": None} if extension == "svg" else None
    figure.savefig(file, format=extension, dpi=_DPI, transparent=True, metadata=metadata)
    return file.getvalue()
