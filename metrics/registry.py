"""Metrics by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from .hits import HitRate


def _accuracy(from_logits: bool) -> Any:
    return HitRate(threshold=0.0 if from_logits else 0.5)


def _auc(_from_logits: bool) -> Any:
    from .auc import AUC

    return AUC()


def _of_torchmetrics(kind: str, **options: Any) -> Callable[[bool], Any]:
    def make(_from_logits: bool) -> Any:
        import torchmetrics

        return getattr(torchmetrics, kind)(**options)

    return make


METRICS: dict[str, Callable[[bool], Any]] = {
    "acc": _accuracy,
    "accuracy": _accuracy,
    "auc": _auc,
    "mae": _of_torchmetrics("MeanAbsoluteError"),
    "mse": _of_torchmetrics("MeanSquaredError"),
    "r2": _of_torchmetrics("R2Score"),
    "rmse": _of_torchmetrics("MeanSquaredError", squared=False),
}


def get(name: str, *, from_logits: bool = True) -> Any:
    """Return a new metric called `name`.

    Args:
        name: A key of `METRICS`.
        from_logits: Whether binary predictions are logits, not probabilities.

    Raises:
        ValueError: No metric has that name.
    """
    if name in METRICS:
        return METRICS[name](from_logits)
    close = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown metric {name!r}{hint}; expected one of {', '.join(METRICS)}"
    raise ValueError(message)
