"""Metrics from what users pass: objects, functions, or names."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .adapters import ForwardMetric
from .function import FunctionMetric
from .merge import without_sync
from .named import NamedMetric
from .probabilities import Probabilities, wants_probabilities
from .registry import entry_of
from .soft import SoftTargets, takes_class_numbers
from .state import moved
from .task import PredictionKind


def make_metric(name: str, metric: Any, device: torch.device, scale: PredictionKind = None) -> Any:
    """Return a new metric with `update`, `compute` and `reset`, on `device`.

    Args:
        name: The name of the metric, for messages.
        metric: A metric, a function, or a registered name.
        device: The device of predictions and targets.
        scale: The kind of predictions, None if it is unknown.

    Raises:
        TypeError: `metric` is not a metric.
        ValueError: `metric` is an unknown name.
    """
    if isinstance(metric, str):
        return NamedMetric(entry_of(metric), scale, device)
    if isinstance(metric, type):
        message = f"metric {name!r} is the class {metric.__name__}; pass {metric.__name__}()"
        raise TypeError(message)
    _refuse_foreign(name, metric)
    methods = [m for m in ("update", "compute", "reset") if callable(getattr(metric, m, None))]
    if methods and not {"compute", "reset"} <= {*methods}:
        message = (
            f"metric {name!r} is a {type(metric).__name__} that only has {' and '.join(methods)}; "
            "expected update (or forward), compute and reset"
        )
        raise TypeError(message)
    if methods:
        # The user's object stays as it is, and each stage has its own.
        new = without_sync(copy.deepcopy(metric))
        new = moved(new, device)
        # It may have been used before.
        new.reset()
        if not callable(getattr(new, "update", None)):
            return ForwardMetric(new)
        return _with_prediction_kind(new, scale)
    if isinstance(metric, nn.Module):  # a loss with weights of its own, for example
        return FunctionMetric(copy.deepcopy(metric).to(device), device, name)
    if callable(metric):
        return FunctionMetric(metric, device, name)
    message = (
        f"metric {name!r} is a {type(metric).__name__}; expected a torchmetrics object, a function "
        "(y_pred, y_true) -> scalar, a name, or an object with update, compute and reset"
    )
    raise TypeError(message)


def _refuse_foreign(name: str, metric: Any) -> None:
    """Raise an error for objects that could be called, but are not metrics of a batch.

    Raises:
        TypeError: `metric` is a metric of Keras, or a MetricTracker of torchmetrics.
    """
    if type(metric).__name__ == "MetricTracker":
        message = (
            f"metric {name!r} is a MetricTracker; pass the metric inside of it, because the "
            "history has its value of each epoch"
        )
        raise TypeError(message)
    if callable(getattr(metric, "update_state", None)) and hasattr(metric, "result"):
        message = (
            f"metric {name!r} is a {type(metric).__name__} of Keras; pass a name such as 'acc', a "
            "metric of torchmetrics, or a function (y_true, y_pred) -> scalar"
        )
        raise TypeError(message)


def _with_prediction_kind(metric: Any, scale: PredictionKind) -> Any:
    """Return the metric, with a fixed kind of predictions if it guesses or needs to know it."""
    if wants_probabilities(metric):
        return Probabilities(metric, scale)
    if getattr(metric, "from_logits", False) is None:  # a metric of fitorch, not set by the user
        metric.from_logits = scale != "probabilities"
        # Whether predictions are logits is unknown, so both kinds are counted until all have been
        # seen.
        if scale is None and metric.needs_prediction_kind:
            metric.from_logits = False
            kept = Probabilities(metric, None)
            return SoftTargets(kept, metric) if takes_class_numbers(metric) else kept
    return metric
