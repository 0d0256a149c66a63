"""Figures of hits and misses by class: precision, recall, intersection over union."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .hits import threshold
from .score import Score


class CountingMetric(Score):
    """What precision, recall and IOU share: for each class how often it was predicted, and was it.

    Args:
        num_classes: The number of classes; None and 1 take it from the first batch.
        from_logits: Whether binary predictions are logits; None is what the loss of the model
            tells, and logits outside of one.
    """

    hits: Tensor
    predicted: Tensor
    actual: Tensor
    total: Tensor

    def __init__(
        self, num_classes: int | None = None, *, from_logits: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(from_logits, **kwargs)
        classes = 1 if num_classes is None or num_classes < 3 else num_classes
        for name in ("hits", "predicted", "actual"):
            zeros = torch.zeros(classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Count a batch in.

        Args:
            preds: (N, C, ...) with C > 1, compared by the largest class; or one number per target.
            target: Class numbers (N, ...), or binary targets of the predictions' size.
            sample_weight: A weight for each sample, (N,) or (N, 1), or None.

        Raises:
            ValueError: The shapes can't be compared, or a target is no class.
        """
        hits, predicted, actual = _class_counts(
            preds, target, threshold(self.from_logits), sample_weight
        )
        self.hits = self.hits + hits
        self.predicted = self.predicted + predicted
        self.actual = self.actual + actual
        self.total = self.total + target.numel()

    def _mean(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Return the ratio over the classes that there are; NaN where nothing was counted."""
        if not self.total:
            return torch.tensor(torch.nan)
        ratios = torch.where(denominator > 0, numerator / denominator, 0.0)
        if len(ratios) > 1:
            ratios = ratios[self.predicted + self.actual > 0]
        return ratios.mean().float()


class Precision(CountingMetric):
    """How many of the positive predictions are right: `TP / (TP + FP)`.

    Of several classes it is the mean over those that occur; 0 where nothing was predicted, as in
    scikit-learn, and NaN where no sample was counted.

    Args:
        num_classes: The number of classes; None takes it from the first batch.
        from_logits: Whether binary predictions are logits (positive above 0) or probabilities
            (0.5); None is what the loss of the model tells, and logits outside of one.

    Example:
        >>> import torch
        >>> metric = Precision()
        >>> metric.update(torch.tensor([2.0, 1.0, -1.0, 3.0]), torch.tensor([1, 0, 1, 1]))
        >>> metric.compute()  # 2 of 3
        tensor(0.6667)
    """

    def compute(self) -> Tensor:
        """Return the precision in [0, 1]."""
        return self._mean(self.hits, self.predicted)


class Recall(CountingMetric):
    """How many of the positive targets are found: `TP / (TP + FN)`.

    Of several classes it is the mean over those that occur; 0 where there is nothing to find, as in
    scikit-learn, and NaN where no sample was counted.

    Args:
        num_classes: The number of classes; None takes it from the first batch.
        from_logits: Whether binary predictions are logits (positive above 0) or probabilities
            (0.5); None is what the loss of the model tells, and logits outside of one.

    Example:
        >>> import torch
        >>> metric = Recall()
        >>> metric.update(torch.tensor([2.0, 1.0, -1.0, -3.0]), torch.tensor([1, 0, 1, 1]))
        >>> metric.compute()  # 1 of 3
        tensor(0.3333)
    """

    def compute(self) -> Tensor:
        """Return the recall in [0, 1]."""
        return self._mean(self.hits, self.actual)


class IOU(CountingMetric):
    """Intersection over union of predicted and true masks: `TP / (TP + FP + FN)`.

    The sums go over all elements of all samples. Of several classes it is the mean over those that
    occur; NaN where no sample was counted.

    Args:
        num_classes: The number of classes; None takes it from the first batch.
        from_logits: Whether binary predictions are logits (positive above 0) or probabilities
            (0.5); None is what the loss of the model tells, and logits outside of one.

    Example:
        >>> import torch
        >>> metric = IOU()
        >>> metric.update(torch.tensor([[2.0, 1.0, -1.0, -3.0]]), torch.tensor([[1, 0, 1, 0]]))
        >>> metric.compute()  # 1 in common, 3 in either
        tensor(0.3333)
    """

    def compute(self) -> Tensor:
        """Return the ratio in [0, 1]."""
        return self._mean(self.hits, self.predicted + self.actual - self.hits)


def _class_counts(
    preds: Tensor, target: Tensor, least: float, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of hits, predictions and targets, for each class or for the positive."""
    by_class = preds.dim() == target.dim() + 1 and preds.shape[1] > 1
    if by_class and preds.argmax(1).shape == target.shape:
        classes, found, true = preds.shape[1], preds.argmax(1), target.long()
        if true.device.type == "cpu" and target.numel() and int(true.max()) >= classes:
            message = f"got class {int(true.max())}, but predictions have {classes} classes"
            raise ValueError(message)
    elif preds.numel() == target.numel() and len(preds) == len(target):
        classes, found = 2, (preds > least).long().reshape(target.shape)
        true = (target > 0.5).long()
    else:
        message = (
            f"predictions of shape {tuple(preds.shape)} and targets of shape "
            f"{tuple(target.shape)} can't be compared; expected (N, C) and (N,), or equal sizes"
        )
        raise ValueError(message)
    weight = None
    if sample_weight is not None:
        beside = sample_weight.reshape(-1, *[1] * (true.dim() - 1))
        weight = beside.expand(true.shape).reshape(-1)
    found, true = found.reshape(-1), true.reshape(-1)
    counts = (
        _count_classes(true, classes, weight, found == true),
        _count_classes(found, classes, weight),
        _count_classes(true, classes, weight),
    )
    first = 0 if by_class else 1
    return counts[0][first:], counts[1][first:], counts[2][first:]


def _count_classes(
    numbers: Tensor, classes: int, weight: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """Return how often each class occurs, by weight; nothing is read from the device."""
    if weight is None:
        weight = torch.ones_like(numbers)
    elif weight.device.type != "mps":
        weight = weight.double()
    weight = weight if mask is None else weight * mask
    places = numbers.clamp(0, classes)  # what is no class goes to a place of its own
    return weight.new_zeros(classes + 1).scatter_add(0, places, weight)[:classes]
