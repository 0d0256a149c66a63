"""The tables of a report: the epochs, no more of them than a page can take, and the fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fitorch.callbacks import figures

from . import report_html
from .fit_record import RUNNING, FitRecord

if TYPE_CHECKING:
    from .history import History

_ROWS, _FEWEST, _CELLS = 200, 40, 8000  # rows at most; of wide tables fewer, but not below that
_TAIL = 20  # of the last epochs all are shown
_COLUMNS = 100


def history_table(history: History) -> str:
    """Return the table of the epochs, the best one marked."""
    columns = history.columns
    heads, count = list(columns)[:_COLUMNS], len(history)
    best = history.best.get("epoch")
    marked = None if best is None else columns["epoch"].index(best)
    limit = min(_ROWS, max(_FEWEST, _CELLS // len(heads)))
    rows = chosen_rows(count, marked, limit)
    body = [([_cell(name, columns[name][row]) for name in heads], row == marked) for row in rows]
    notes = [_thinned(rows, count, limit)] if len(rows) < count else []
    if len(heads) < len(columns):
        notes.append(f"{len(heads)} of {len(columns)} columns are shown.")
    if notes:
        notes.append("model.history.frame has all.")
    shown = ["time" if name == "seconds" else name for name in heads]
    table = report_html.table(shown, body)
    return report_html.section("Epochs", report_html.note(" ".join(notes)), table, kind="long")


def chosen_rows(count: int, best: int | None, limit: int) -> list[int]:
    """Return the rows to show: all, or the first of every so many, the best, and the last ones.

    Example:
        >>> chosen_rows(100, 33, 30)[:6], len(chosen_rows(100, 33, 30))
        ([0, 9, 18, 27, 33, 36], 30)
    """
    if count <= limit:
        return list(range(count))
    head = count - _TAIL
    rows = {*range(0, head, _step(count, limit)), *range(head, count)}
    return sorted(rows if best is None else rows | {best})


def _step(count: int, limit: int) -> int:
    """Return how far rows lie apart, before the last ones."""
    return -(-(count - _TAIL) // (limit - _TAIL - 1))


def brief(seconds: float) -> str:
    """Write a time as people say it, a short one in milliseconds.

    Example:
        >>> [brief(seconds) for seconds in (0.00253, 0.25, 83)]
        ['2.53 ms', '0.25 s', '1:23']
    """
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.0995 else figures.duration(seconds)


def fits_table(history: History) -> str:
    """Return the table of the fits, "" where all epochs are of one."""
    fits = list(history.fits)
    before = fits[0].first if fits else 0
    if not fits or (len(fits) == 1 and not before):
        return ""
    body = [
        ([_epochs(history, 0, before), "", "before: a checkpoint, or an earlier fit", ""], False)
    ]
    body = (body if before else []) + [(_fit(history, fit), False) for fit in fits]
    table = report_html.table(["epochs", "status", "why it ended", "time"], body, "fits")
    return report_html.section("Fits", table)


def _fit(history: History, fit: FitRecord) -> list[str]:
    if fit.status == RUNNING:
        return [_epochs(history, fit.first, len(history)), fit.status, "", ""]
    span = _epochs(history, fit.first, fit.rows)
    return [span, fit.status, fit.reason, figures.duration(fit.seconds)]


def _epochs(history: History, first: int, end: int) -> str:
    numbers = history.columns["epoch"][first:end]
    if not len(numbers):
        return "none"
    begin, last = int(numbers[0]), int(numbers[-1])
    return f"{begin}" if begin == last else f"{begin} to {last}"


def _thinned(rows: Sequence[int], count: int, limit: int) -> str:
    return (
        f"{len(rows)} of {count:,} epochs are shown: one in {_step(count, limit)}, the best, and "
        f"the last {_TAIL}."
    )


def _cell(name: str, value: float) -> str:
    if name == "epoch":
        return str(int(value))
    if name == "seconds":
        return "-" if value != value else brief(value)
    rate = name == "lr" or name.startswith("lr_")
    return figures.learning_rate(value) if rate else figures.number(value)
