"""What kind of problem predictions and targets are, told once, from the first batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

# What predictions are: probabilities, logits (for the sigmoid, or where targets are class numbers
# for the softmax), logits of classes along dimension 1; None where nobody told.
PredictionKind = Literal["probabilities", "logits", "class_logits"] | None


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of problem.

    Args:
        kind: "binary", "multiclass", "multilabel" or "regression".
        size: The number of classes, or of labels; 1 where that says nothing.
    """

    kind: str
    size: int = 1

    def __str__(self) -> str:
        if self.kind == "multiclass":
            return f"multiclass, {self.size} classes"
        return f"multilabel, {self.size} labels" if self.kind == "multilabel" else self.kind


def infer_task(y_pred: Any, y_true: Any, scale: PredictionKind = None) -> Task:
    """Tell the kind of problem.

    Predictions (N, C, ...) beside whole numbers (N, ...), or beside a probability for each class,
    are of C classes; others have the size of their targets and are binary where these are 0 and 1
    (or in between: smoothed), multilabel where there are several for each sample, and regression
    where they are anything else.

    Raises:
        ValueError: The shapes belong to none of these.
    """
    if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
        if y_pred.dim() == y_true.dim() + 1 and y_pred.shape[1] > 1:
            return Task("multiclass", y_pred.shape[1])
        if y_pred.shape == y_true.shape and scale == "class_logits" and y_pred.dim() > 1:
            return Task("multiclass", y_pred.shape[1])
        if y_pred.numel() == y_true.numel() and len(y_pred) == len(y_true):
            if not bool(((y_true >= 0) & (y_true <= 1)).all()):
                return Task("regression")
            several = y_pred.dim() == 2 and y_pred.shape[1] > 1
            return Task("multilabel", y_pred.shape[1]) if several else Task("binary")
    shapes = " and ".join(
        f"{type(part).__name__} {tuple(getattr(part, 'shape', ()))}" for part in (y_pred, y_true)
    )
    message = (
        f"can't tell the task from predictions and targets of {shapes}; pass a metric of "
        "torchmetrics, made for the task, instead of a name"
    )
    raise ValueError(message)


def reshape_for_task(task: Task, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and targets in the shapes and types that torchmetrics takes."""
    if task.kind == "regression":
        return preds.reshape(target.shape), target
    if task.kind == "multiclass":
        return preds, (target.argmax(1) if target.shape == preds.shape else target.long())
    if task.kind == "binary":
        return preds.reshape(-1), (target.reshape(-1) > 0.5).long()
    return preds, (target > 0.5).long()


def to_probabilities(preds: Tensor, target: Tensor, scale: PredictionKind) -> Tensor:
    """Return predictions as probabilities, in 64 bits, where large logits stay apart."""
    if scale == "probabilities" or not preds.is_floating_point():
        return preds
    wide = preds if preds.device.type == "mps" else preds.double()
    by_class = preds.dim() == target.dim() + 1 or scale == "class_logits"
    return wide.softmax(1) if by_class and preds.dim() > 1 else wide.sigmoid()


def outside_unit_interval(preds: Tensor) -> Tensor:
    """Return whether some prediction can't be a probability, a scalar that nobody has read yet."""
    return ((preds < 0) | (preds > 1)).any() if preds.is_floating_point() else torch.tensor(False)
