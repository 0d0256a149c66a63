"""Metrics by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torchmetrics

from .accuracy import Accuracy
from .auc import AUC

METRICS: dict[str, Callable[[bool], Any]] = {
    "acc": lambda from_logits: Accuracy(from_logits=from_logits),
    "accuracy": lambda from_logits: Accuracy(from_logits=from_logits),
    "auc": lambda _: AUC(),
    "mae": lambda _: torchmetrics.MeanAbsoluteError(),
    "mse": lambda _: torchmetrics.MeanSquaredError(),
    "r2": lambda _: torchmetrics.R2Score(),
    "rmse": lambda _: torchmetrics.MeanSquaredError(squared=False),
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
