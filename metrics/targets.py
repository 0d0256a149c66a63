"""The form of an output for metrics: which targets count, and along which axis the classes lie."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .task import PredictionKind

ClassesLast = Callable[[Tensor, Tensor], "bool | None"]

_FILL = -100  # `ignore_index` of torchmetrics' metrics that leave out targets themselves


class Prepared(NamedTuple):
    """A batch in the form that metrics of tensors expect.

    Args:
        y_pred: The predictions, with the classes along dimension 1.
        y_true: The targets.
        counted: Which targets count, in the shape of the targets; None if all of them do.
    """

    y_pred: Any
    y_true: Any
    counted: Tensor | None = None


@dataclass(slots=True)
class TargetForm:
    """How the predictions and targets of an output are read.

    Args:
        scale: The kind of predictions, None if it is unknown.
        ignored: The class number of targets that do not count, None if all of them do.
        classes_last: Returns for predictions (N, T, T) whether the last dimension has the classes;
            None if it is unknown.
        shifted: Returns whether predictions (N, T, C) for token t belong to the target t + 1, as
            those of causal language models do.
    """

    scale: PredictionKind = None
    ignored: int | None = None
    classes_last: ClassesLast = field(default=lambda _y_pred, _y_true: None)
    shifted: Callable[[], bool] = field(default=lambda: False)
    _last: bool | None = None

    def __deepcopy__(self, _memo: Any) -> TargetForm:
        return copy.copy(self)  # what it asks belongs to a model, which is not copied

    def prepare(self, y_pred: Any, y_true: Any) -> Prepared:
        """Return a batch in the form that metrics of tensors expect."""
        if not (isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)):
            return Prepared(y_pred, y_true)
        y_pred = with_batch_dimension(y_pred, y_true)
        if y_pred.dim() == y_true.dim() + 1 > 2 and self._has_classes_last(y_pred, y_true):
            if self.shifted():
                y_pred, y_true = y_pred[:, :-1], y_true[:, 1:]
            y_pred = y_pred.movedim(-1, 1)
        return Prepared(y_pred, y_true, self.counted(y_true))

    def counted(self, y_true: Tensor) -> Tensor | None:
        """Return which targets count; None if all of them do."""
        if self.ignored is None or y_true.is_floating_point() or y_true.dtype is torch.bool:
            return None
        counted = y_true != self.ignored
        # An accelerator is not asked, because that would wait for it.
        return None if counted.is_cpu and bool(counted.all()) else counted

    def class_numbers(self, y_pred: Tensor, y_true: Any) -> Any:
        """Return the targets; if they are probabilities of classes, the most probable class."""
        by_class = self.scale == "class_logits" and isinstance(y_true, Tensor)
        if by_class and y_true.is_floating_point() and has_label_columns(y_pred, y_true):
            return y_true.argmax(1)
        return y_true

    def _has_classes_last(self, y_pred: Tensor, y_true: Tensor) -> bool:
        last = y_pred.shape[:-1] == y_true.shape
        if not last or (y_pred.shape[0], *y_pred.shape[2:]) != y_true.shape:
            # Batches of sequences of another length decide for those with as many as classes.
            self._last = last if self._last is None else self._last
            return last
        if self._last is None:
            self._last = self.classes_last(y_pred, y_true)
        return bool(self._last)


def has_label_columns(y_pred: Any, y_true: Any) -> bool:
    """Return whether predictions and targets have the same columns, at least two."""
    tensors = isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)
    return tensors and y_pred.shape == y_true.shape and y_pred.dim() > 1 and y_pred.shape[1] > 1


def sums_to_one(y_true: Tensor) -> Tensor:
    """Return whether all rows of targets are probabilities that sum to 1, as a scalar tensor."""
    wide = y_true.float()
    return ((wide.sum(1) - 1).abs() < 1e-3).all() & (wide >= 0).all()


def with_batch_dimension(y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Return the predictions for one sample with the dimension that `.squeeze()` has removed."""
    if not y_true.dim() or len(y_true) != 1 or (y_pred.dim() and len(y_pred) == 1):
        return y_pred
    if y_pred.numel() == y_true.numel():
        return y_pred.reshape(y_true.shape)
    return y_pred.unsqueeze(0) if y_pred.dim() == y_true.dim() else y_pred


def logits_of(output: Any) -> Any:
    """Return the tensor that a metric of tensors compares, if the output has it beside others.

    It is the `.logits` or `"logits"` of an output, or the second entry of a tuple whose first one
    is a loss.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("logits")
    if logits is not None:
        return logits
    if isinstance(output, (tuple, list)) and len(output) > 1:
        loss, second = output[:2]
        if isinstance(loss, Tensor) and not loss.dim() and isinstance(second, Tensor):
            return second
    return output


def element_weights(target: Tensor, counted: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Return a weight for each target, booleans if samples have none; None if all weigh the same.

    Args:
        target: The targets, (N, ...).
        counted: Which targets count, or None.
        weight: A weight for each sample, or None.
    """
    if weight is None:
        return counted
    if weight.numel() != target.numel():
        weight = weight.reshape(-1, *[1] * (target.dim() - 1)).expand(target.shape)
    else:
        weight = weight.reshape(target.shape)
    return weight if counted is None else weight * counted


def update_counted(
    metric: Any,
    prepared: Prepared,
    weight: Tensor | None,
    *,
    weighted: bool,
    by_itself: bool = False,
) -> None:
    """Update a metric with the targets that count.

    Args:
        metric: The metric.
        prepared: The batch.
        weight: A weight for each sample, or None.
        weighted: Whether `update` takes a `sample_weight`; targets that do not count then weigh 0.
        by_itself: Whether the metric leaves out targets whose class is -100.
    """
    y_pred, y_true, counted = prepared
    if counted is None:
        weights = {"sample_weight": weight} if weighted and weight is not None else {}
        metric.update(y_pred, y_true, **weights)
    elif weighted:
        # The class numbers are valid, because classes are counted by them, with a weight of 0.
        filled = y_true.where(counted, 0)
        metric.update(y_pred, filled, sample_weight=element_weights(y_true, counted, weight))
    elif by_itself:
        metric.update(y_pred, y_true.where(counted, _FILL))
    else:
        # This waits for the device: how many targets are left is the shape of what remains.
        if y_pred.dim() == y_true.dim() + 1:
            y_pred = y_pred.movedim(1, -1)[counted]
        else:
            y_pred = y_pred.reshape(y_true.shape)[counted]
        if len(y_pred):
            metric.update(y_pred, y_true[counted])
