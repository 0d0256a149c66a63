"""Model card: net, objective, metrics, data and software versions of a trained model."""

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
    """Return the contents of a model card; see `KerasModel.card`."""
    history, parameters = model.history, sized(model.net)
    last = history.fits[-1] if history.fits else None
    contents: dict[str, Any] = {
        "net": type(model.net).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "loss": written(model.objective.module),
        "metrics": [name for name, _, _ in flat(model.metrics_dict)],
        "optimizer": None if model.optimizer is None else optimizer_of(model.optimizer),
        "epochs": history.epoch[-1] + 1 if len(history) else 0,
        "best": _best_values(model),
        "seed": history.seed,
    }
    return contents | (_of_fit(last) if last else {})


def _best_values(model: BaseModel) -> dict[str, Any] | None:
    """Return the best epoch, the monitored value and all other values; None if there is none."""
    history, row = model.history, model.history.best
    if not row:
        return None
    columns = {n: value for n, value in row.items() if n not in ("epoch", "seconds")}
    # NaN has no place in JSON.
    measured = {name: float(value) for name, value in columns.items() if value == value}  # not NaN
    monitored = {"monitor": history.monitor, "mode": history.mode, "epoch": int(row["epoch"])}
    return {**monitored, "value": float(row[history.monitor]), "figures": measured}


def _of_fit(fit: FitRecord) -> dict[str, Any]:
    """Return the record of the last fit, with the optimizer as it was at its beginning."""
    # The learning rate may have changed in training, so the optimizer is taken from its beginning.
    settings = dict(fit.settings)
    return {
        "optimizer": settings.get("optimizer"),
        "data": settings.get("training data"),
        "settings": settings,
        "environment": dict(fit.environment),
        "git": _git_commit(fit),
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fit.began)),
        "seconds": round(fit.seconds, 3),
        "status": fit.status,
        "reason": fit.reason,
        "weights_of_epoch": fit.restored,
    }


def _git_commit(fit: FitRecord) -> dict[str, Any] | None:
    """Return the commit of a fit, and whether files differ from it if it is still checked out."""
    recorded = fit.revision
    if recorded is None:
        return None
    changed = is_changed(recorded.folder) if revision(recorded.folder) == recorded else None
    return {"commit": recorded.commit, "branch": recorded.branch or None, "changed": changed}
