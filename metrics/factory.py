"""Metrics out of what users pass."""

from __future__ import annotations

import copy
from typing import Any

import torch

from .adapters import ForwardMetric
from .function import FunctionMetric
from .merge import without_sync
from .named import NamedMetric
from .probabilities import Probabilities, wants_probabilities
from .registry import entry_of
from .task import PredictionKind


def make_metric(name: str, metric: Any, device: torch.device, scale: PredictionKind = None) -> Any:
    """Return a fresh metric with `update`, `compute` and `reset`, on `device`.

    Args:
        name: What the figure is called.
        metric: A metric, a function, or a registered name.
        device: Where predictions and targets lie.
        scale: What predictions are, where that is known.

    Raises:
        TypeError: `metric` is no metric.
        ValueError: `metric` is a name that is not known.
    """
    if isinstance(metric, str):
        return NamedMetric(entry_of(metric), scale)
    if isinstance(metric, type):
        message = f"metric {name!r} is the class {metric.__name__}; pass {metric.__name__}()"
        raise TypeError(message)
    verbs = [v for v in ("update", "compute", "reset") if callable(getattr(metric, v, None))]
    if verbs and not {"compute", "reset"} <= {*verbs}:
        message = (
            f"metric {name!r} is a {type(metric).__name__} with {' and '.join(verbs)} alone; "
            "expected update (or forward), compute and reset"
        )
        raise TypeError(message)
    if verbs:
        fresh = without_sync(copy.deepcopy(metric))
        fresh = fresh.to(device) if hasattr(fresh, "to") else fresh
        fresh.reset()
        if not callable(getattr(fresh, "update", None)):
            return ForwardMetric(fresh)
        return _with_prediction_kind(fresh, scale)
    if callable(metric):
        return FunctionMetric(metric, device)
    message = (
        f"metric {name!r} is a {type(metric).__name__}; expected a torchmetrics object, a function "
        "(y_pred, y_true) -> scalar, a name, or an object with update, compute and reset"
    )
    raise TypeError(message)


def _with_prediction_kind(metric: Any, scale: PredictionKind) -> Any:
    """Settle whether predictions are logits, for metrics that would guess or have to be told."""
    if wants_probabilities(metric):
        return Probabilities(metric, scale)
    if getattr(metric, "from_logits", False) is None:  # ours
        metric.from_logits = scale != "probabilities"
        if scale is None and metric.needs_prediction_kind:
            metric.from_logits = False
            return Probabilities(metric, None)
    return metric
