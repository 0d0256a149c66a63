"""The sections of a report as data: how the fit ended, tables of epochs and fits, environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fitorch.callbacks.display import number_format
from fitorch.checkpoint.checkpoint import Checkpoint
from fitorch.checkpoint.weights import metadata_of
from fitorch.errors import CheckpointError
from fitorch.files import shown

from .record import RUNNING, FitRecord
from .revision import is_changed, revision

if TYPE_CHECKING:
    from array import array

    from matplotlib.figure import Figure


_MOST_ROWS, _FEWEST_ROWS, _MOST_CELLS = 200, 40, 8000  # a wide table has fewer rows

_TAIL = 20  # the last epochs, which are all shown

_MOST_COLUMNS = 100


class ReportedHistory(Protocol):
    """The part of `History` that a report reads."""

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
        """The prefix of the columns of each validation set."""
        ...

    def plot(self, *, metrics: list[str]) -> Figure:
        """Draw columns over the epochs."""
        ...


def ending_section(fit: FitRecord) -> dict[str, Any]:
    """Return why a fit ended, and the files of its weights."""
    running = fit.status == RUNNING
    facts = {"reason": fit.reason, "took": number_format.duration(fit.seconds)}
    if running:
        facts = {"reason": "it has not: this was written while it trained"}
    if fit.restored is not None:
        facts["weights"] = f"the net has those of epoch {fit.restored}"
    if fit.best_file is not None and (best := _best_file(fit.best_file, fit.restored)):
        facts["best weights"] = best
    if fit.checkpoint is not None and (checkpoint := _checkpoint(fit.checkpoint, fit.run_id)):
        facts["checkpoint"] = checkpoint
    title = "Status" if running else "How it ended"
    return {"title": title, "facts": facts, "error": fit.error}


def environment_section(fit: FitRecord) -> dict[str, str]:
    """Return where a fit ran, and the revision of its code."""
    facts = dict(fit.environment)
    if fit.revision is not None:
        facts["git"] = _revision(fit)
    return facts


def _revision(fit: FitRecord) -> str:
    """Return the commit; mention changes only if that commit is still checked out."""
    recorded = fit.revision
    assert recorded is not None
    text = recorded.commit[:12] + (f" on {recorded.branch}" if recorded.branch else "")
    # Uncommitted changes belong to the commit that is checked out now.
    current = revision(recorded.folder)
    changed = is_changed(recorded.folder) if current == recorded else None
    return f"{text}, with uncommitted changes" if changed else text


def _best_file(path: Path, epoch: int | None) -> str:
    """Return the path of the best weights, "" if the file is of another epoch."""
    # A later fit may have replaced the file.
    saved = metadata_of(path).get("epoch")
    return f"{shown(path)}" if epoch is not None and saved == str(epoch) else ""


def _checkpoint(path: Path, run_id: str) -> str:
    """Return the path of a checkpoint, "" if it is gone or belongs to another run."""
    try:
        # Only the manifest is read: verifying all files would take long.
        info = Checkpoint(path).manifest().info
    except (CheckpointError, OSError):
        return ""
    if info.get("run") != run_id:
        return ""
    batch = f" and {info['batch']} batches" if info.get("batch") else ""
    return f"{shown(path)}, after epoch {info.get('epoch')}{batch}"


def epochs_section(history: ReportedHistory) -> dict[str, Any]:
    """Return the table of the epochs, and the row of the best one."""
    columns = history.columns
    names, count = list(columns)[:_MOST_COLUMNS], len(history)
    best = history.best.get("epoch")
    best_row = None if best is None else columns["epoch"].index(best)
    limit = min(_MOST_ROWS, max(_FEWEST_ROWS, _MOST_CELLS // len(names)))
    rows = chosen_rows(count, best_row, limit)
    notes = [_thinned(rows, count, limit)] if len(rows) < count else []
    if len(names) < len(columns):
        notes.append(f"{len(names)} of {len(columns)} columns are shown.")
    if notes:
        notes.append("model.history.frame has all.")
    return {
        "note": " ".join(notes),
        "heads": ["time" if name == "seconds" else name for name in names],
        "rows": [[_cell(name, columns[name][row]) for name in names] for row in rows],
        "best": None if best_row is None else rows.index(best_row),
    }


def chosen_rows(count: int, best: int | None, limit: int) -> list[int]:
    """Return the rows to show: all, or one in every few, the best, and the last ones.

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
    """Return the distance of shown rows, except for the last ones."""
    return -(-(count - _TAIL) // (limit - _TAIL - 1))


def short_duration(seconds: float) -> str:
    """Format a time, below a tenth of a second in milliseconds.

    Example:
        >>> [short_duration(seconds) for seconds in (0.00253, 0.25, 83)]
        ['2.53 ms', '0.25 s', '1:23']
    """
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.0995 else number_format.duration(seconds)


def fits_section(history: ReportedHistory) -> dict[str, Any] | None:
    """Return the table of the fits, None if all epochs belong to one."""
    fits = list(history.fits)
    before = fits[0].first if fits else 0
    if not fits or (len(fits) == 1 and not before):
        return None
    earlier = [_epochs(history, 0, before), "", "before: a checkpoint, or an earlier fit", ""]
    return {
        "heads": ["epochs", "status", "why it ended", "time"],
        "rows": [*([earlier] if before else []), *(_fit_cells(history, fit) for fit in fits)],
    }


def _fit_cells(history: ReportedHistory, fit: FitRecord) -> list[str]:
    if fit.status == RUNNING:
        return [_epochs(history, fit.first, len(history)), fit.status, "", ""]
    span = _epochs(history, fit.first, fit.rows)
    return [span, fit.status, fit.reason, number_format.duration(fit.seconds)]


def _epochs(history: ReportedHistory, first: int, end: int) -> str:
    numbers = history.columns["epoch"][first:end]
    if not len(numbers):
        return "none"
    start, last = int(numbers[0]), int(numbers[-1])
    return f"{start}" if start == last else f"{start} to {last}"


def _thinned(rows: Sequence[int], count: int, limit: int) -> str:
    return (
        f"{len(rows)} of {count:,} epochs are shown: one in {_step(count, limit)}, the best, and "
        f"the last {_TAIL}."
    )


def _cell(name: str, value: float) -> str:
    if name == "epoch":
        return str(int(value))
    if name == "seconds":
        return "-" if value != value else short_duration(value)
    rate = name == "lr" or name.startswith("lr_")
    return number_format.learning_rate(value) if rate else number_format.number(value)
