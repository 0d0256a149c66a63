"""The sections of a report: tables of epochs and fits, how it ended, settings, environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fitorch.callbacks.display import number_format as figures
from fitorch.checkpoint.checkpoint import Checkpoint
from fitorch.checkpoint.weights import metadata_of
from fitorch.errors import CheckpointError
from fitorch.files import shown

from . import report_html
from .record import RUNNING, FitRecord
from .revision import is_changed, revision

if TYPE_CHECKING:
    from array import array

    from matplotlib.figure import Figure


class ReportedHistory(Protocol):
    """What a report reads of a history; `History` has it."""

    monitor: str

    def __len__(self) -> int: ...

    @property
    def fits(self) -> Sequence[FitRecord]:
        """The records of the fits in this process."""
        ...

    @property
    def columns(self) -> dict[str, array[float]]:
        """The table by columns."""
        ...

    @property
    def best(self) -> dict[str, float]:
        """The row of the best epoch; empty before the first."""
        ...

    @property
    def sets(self) -> Sequence[str]:
        """What the columns of each validation set begin with."""
        ...

    def plot(self, *, metrics: list[str]) -> Figure:
        """Draw columns over the epochs."""
        ...


def ending_of(fit: FitRecord | None) -> str:
    """Tell why a fit ended, and where its weights are."""
    if fit is None:
        return ""
    told = {"reason": fit.reason, "took": figures.duration(fit.seconds)}
    if fit.status == RUNNING:
        told = {"reason": "it has not: this was written while it trained"}
    if fit.restored is not None:
        told["weights"] = f"the net was given those of epoch {fit.restored}"
    if fit.best_file is not None and (best := _best_file(fit.best_file, fit.restored)):
        told["best weights"] = best
    if fit.checkpoint is not None and (checkpoint := _checkpoint(fit.checkpoint, fit.run_id)):
        told["checkpoint"] = checkpoint
    title = "How it stands" if fit.status == RUNNING else "How it ended"
    return report_html.section(title, report_html.facts(told), report_html.block(fit.error))


def settings_of(fit: FitRecord | None, title: str) -> str:
    """Tell what was asked for."""
    return "" if fit is None else report_html.section(title, report_html.facts(fit.settings))


def environment_of(fit: FitRecord | None) -> str:
    """Tell where it ran, and of which revision of the code."""
    if fit is None:
        return ""
    facts = dict(fit.environment)
    if fit.revision is not None:
        facts["git"] = _revision(fit)
    return report_html.section("Environment", report_html.facts(facts))


def _revision(fit: FitRecord) -> str:
    """Write the commit; of changes only where that commit is still checked out."""
    found = fit.revision
    assert found is not None
    text = found.commit[:12] + (f" on {found.branch}" if found.branch else "")
    changed = is_changed(found.folder) if revision(found.folder) == found else None
    return f"{text}, with uncommitted changes" if changed else text


def _best_file(path: Path, epoch: int | None) -> str:
    """Write where the best weights are, "" where the file is not of that epoch."""
    told = metadata_of(path)
    return f"{shown(path)}" if epoch is not None and told.get("epoch") == str(epoch) else ""


def _checkpoint(path: Path, run_id: str) -> str:
    """Write where a checkpoint is, "" where it is not there any more, or another run's."""
    try:
        info = Checkpoint(path).manifest().info
    except (CheckpointError, OSError):
        return ""
    if info.get("run") != run_id:
        return ""
    batch = f" and {info['batch']} batches" if info.get("batch") else ""
    return f"{shown(path)}, after epoch {info.get('epoch')}{batch}"


_ROWS, _FEWEST, _CELLS = 200, 40, 8000  # rows at most; of wide tables fewer, but not below that

_TAIL = 20  # of the last epochs all are shown

_COLUMNS = 100


def history_table(history: ReportedHistory) -> str:
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


def fits_table(history: ReportedHistory) -> str:
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


def _fit(history: ReportedHistory, fit: FitRecord) -> list[str]:
    if fit.status == RUNNING:
        return [_epochs(history, fit.first, len(history)), fit.status, "", ""]
    span = _epochs(history, fit.first, fit.rows)
    return [span, fit.status, fit.reason, figures.duration(fit.seconds)]


def _epochs(history: ReportedHistory, first: int, end: int) -> str:
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
