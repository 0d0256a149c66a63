"""Metrics over the epoch, exact for any batch size.

Metrics are imported on first access, because torchmetrics takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fitorch.metrics.base import MetricSet
from fitorch.metrics.batching import MetricError

if TYPE_CHECKING:
    from fitorch.metrics.accuracy import Accuracy
    from fitorch.metrics.counts import IOU, Precision, Recall
    from fitorch.metrics.epochwise import whole_epoch
    from fitorch.metrics.named import get
    from fitorch.metrics.ranking import AUC, KS


_MODULES = {
    "AUC": "ranking",
    "Accuracy": "accuracy",
    "IOU": "counts",
    "KS": "ranking",
    "Precision": "counts",
    "Recall": "counts",
    "get": "named",
    "whole_epoch": "epochwise",
}

__all__ = [  # noqa: RUF022 - plainly sorted: AUC is not a constant
    "AUC",
    "Accuracy",
    "IOU",
    "KS",
    "MetricError",
    "MetricSet",
    "Precision",
    "Recall",
    "get",
    "whole_epoch",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
