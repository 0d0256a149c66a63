"""What somebody needs to know who gets a model: net, objective, figures, data, versions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fitorch.history.record import FitRecord
from fitorch.history.revision import is_changed, revision
from fitorch.history.wording import optimizer_of, sized, written
from fitorch.metrics.base import flat

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


def card(model: BaseModel) -> dict[str, Any]:
    """Return what a model card needs; see `KerasModel.card`."""
    history, parameters = model.history, sized(model.net)
    last = history.fits[-1] if history.fits else None
    facts: dict[str, Any] = {
        "net": type(model.net).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "loss": written(model.objective.module),
        "metrics": [name for name, _, _ in flat(model.metrics_dict)],
        "optimizer": None if model.optimizer is None else optimizer_of(model.optimizer),
        "epochs": history.epoch[-1] + 1 if len(history) else 0,
        "best": _best(model),
        "seed": history.seed,
    }
    return facts | (_of_fit(last) if last else {})


def _best(model: BaseModel) -> dict[str, Any] | None:
    """Return which epoch is best by what, with all its figures; None where nothing is."""
    history, row = model.history, model.history.best
    if not row:
        return None
    figures = {n: value for n, value in row.items() if n not in ("epoch", "seconds")}
    measured = {name: float(value) for name, value in figures.items() if value == value}
    chosen = {"monitor": history.monitor, "mode": history.mode, "epoch": int(row["epoch"])}
    return {**chosen, "value": float(row[history.monitor]), "figures": measured}


def _of_fit(fit: FitRecord) -> dict[str, Any]:
    """Return what the last fit tells, in which its optimizer stands as it began."""
    told = dict(fit.settings)
    return {
        "optimizer": told.get("optimizer"),
        "data": told.get("training data"),
        "settings": told,
        "environment": dict(fit.environment),
        "git": _git(fit),
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fit.began)),
        "seconds": round(fit.seconds, 3),
        "status": fit.status,
        "reason": fit.reason,
        "weights_of_epoch": fit.restored,
    }


def _git(fit: FitRecord) -> dict[str, Any] | None:
    """Return the commit; whether files were changed only where it is still checked out."""
    found = fit.revision
    if found is None:
        return None
    changed = is_changed(found.folder) if revision(found.folder) == found else None
    return {"commit": found.commit, "branch": found.branch or None, "changed": changed}
