"""The sections of a report that tell about the last fit: how it ended, settings, environment."""

from __future__ import annotations

from pathlib import Path

from fitorch.callbacks import figures

from . import report_html
from .checkpoint import Checkpoint
from .errors import CheckpointError
from .fit_record import RUNNING, FitRecord
from .folder import shown
from .git import is_changed, revision
from .weights import metadata_of


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
