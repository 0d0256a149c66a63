"""Task inference: binary, multi-class, multi-label or regression, from the first batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fitorch.devices.capabilities import widened

# Probabilities; logits, for the sigmoid or (if targets are class numbers) for the softmax; logits
# of classes along dimension 1; None if it is unknown.
PredictionKind = Literal["probabilities", "logits", "class_logits"] | None


@dataclass(frozen=True, slots=True)
class Task:
    """A task.

    Args:
        kind: "binary", "multiclass", "multilabel" or "regression".
        size: The number of classes or labels; 1 for binary tasks and regression.
        soft: Whether targets are class probabilities, inferred from the sums of their rows.
    """

    kind: str
    size: int = 1
    soft: bool = False

    def __str__(self) -> str:
        if self.kind == "multiclass":
            rows = " (each row of the targets sums to 1)" if self.soft else ""
            return f"multiclass, {self.size} classes{rows}"
        return f"multilabel, {self.size} labels" if self.kind == "multilabel" else self.kind


def infer_task(y_pred: Any, y_true: Any, scale: PredictionKind = None) -> Task:
    """Return the task of predictions and targets.

    The task is multi-class for predictions (N, C, ...) with class numbers (N, ...), or with class
    probabilities of the same shape. Otherwise, predictions have the size of their targets: the task
    is regression if a target lies outside of [0, 1]; else it is multi-label for predictions (N, L)
    with L > 1, and binary for all others.

    Args:
        y_pred: Predictions of a batch.
        y_true: Targets of the same batch.
        scale: The kind of predictions, None if it is unknown.

    Raises:
        ValueError: The shapes belong to none of these tasks.
    """
    if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
        # The targets are class numbers.
        if y_pred.dim() == y_true.dim() + 1 and y_pred.shape[1] > 1:
            return Task("multiclass", y_pred.shape[1])
        # The targets are class probabilities.
        if y_pred.shape == y_true.shape and scale == "class_logits" and y_pred.dim() > 1:
            return Task("multiclass", y_pred.shape[1])
        if y_pred.numel() == y_true.numel() and len(y_pred) == len(y_true):
            # Synchronizes with the device, in the first batch only.
            if not bool(((y_true >= 0) & (y_true <= 1)).all()):
                return Task("regression")
            several = y_pred.dim() == 2 and y_pred.shape[1] > 1
            return Task("multilabel", y_pred.shape[1]) if several else Task("binary")
    shapes = " and ".join(
        f"{type(part).__name__} {tuple(getattr(part, 'shape', ()))}" for part in (y_pred, y_true)
    )
    message = (
        f"cannot infer the task from predictions and targets of {shapes}; pass a metric of "
        "torchmetrics for the task instead of a name"
    )
    raise ValueError(message)


def reshape_for_task(task: Task, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and targets in the shapes and dtypes that torchmetrics expects."""
    if task.kind == "regression":
        return preds.reshape(target.shape), target
    if task.kind == "multiclass":
        # Class probabilities become the most probable class.
        return preds, (target.argmax(1) if target.shape == preds.shape else target.long())
    if task.kind == "binary":
        return preds.reshape(-1), (target.reshape(-1) > 0.5).long()
    return preds, (target > 0.5).long()


def to_probabilities(preds: Tensor, target: Tensor, scale: PredictionKind) -> Tensor:
    """Return predictions as probabilities, in float64, in which those of large logits differ."""
    if scale == "probabilities" or not preds.is_floating_point():
        return preds
    # In float32, the sigmoid of 17 is 1: all larger logits would be equal.
    wide = widened(preds)
    by_class = preds.dim() == target.dim() + 1 or scale == "class_logits"
    return wide.softmax(1) if by_class and preds.dim() > 1 else wide.sigmoid()


def outside_unit_interval(preds: Tensor) -> Tensor:
    """Return whether a prediction is not in [0, 1], as a scalar tensor on its device."""
    if not preds.is_floating_point():
        return torch.zeros((), dtype=torch.bool, device=preds.device)
    return ((preds < 0) | (preds > 1)).any()
