"""What people look at: metrics over the epoch, exact for any batch size.

Metrics are imported when first asked for: torchmetrics takes its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import MetricSet

if TYPE_CHECKING:
    from .accuracy import Accuracy
    from .auc import AUC
    from .registry import get

__all__ = ["AUC", "Accuracy", "MetricSet", "get"]


def __getattr__(name: str) -> Any:
    if name == "AUC":
        from .auc import AUC

        return AUC
    if name == "Accuracy":
        from .accuracy import Accuracy

        return Accuracy
    if name == "get":
        from .registry import get

        return get
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
