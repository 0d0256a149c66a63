"""Precision, recall and intersection over union, from counts per class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import is_host
from fitorch.devices.capabilities import widened

from .hits import threshold
from .score import Score
from .targets import element_weights


class CountingMetric(Score):
    """Base class of precision, recall and IOU: counts of hits, predictions and targets per class.

    Args:
        num_classes: The number of classes; None and 1 infer it from the first batch.
        from_logits: Whether binary predictions are logits; None follows the model's loss, and is
            True outside of a model.
    """

    hits: Tensor
    predicted: Tensor
    actual: Tensor
    total: Tensor

    def __init__(
        self, num_classes: int | None = None, *, from_logits: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(from_logits, **kwargs)
        # Two classes are counted as one, the positives, as in scikit-learn.
        classes = 1 if num_classes is None or num_classes < 3 else num_classes
        for name in ("hits", "predicted", "actual"):
            zeros = torch.zeros(classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            preds: (N, C, ...) with C > 1, or one number per target.
            target: Class numbers (N, ...), or binary targets of the predictions' size.
            sample_weight: A weight for each sample, (N,) or (N, 1), or None.

        Raises:
            ValueError: The shapes do not match, or a target is not a class.
        """
        hits, predicted, actual = _class_counts(
            preds, target, threshold(self.from_logits), sample_weight
        )
        # The sum is a new tensor: the first batch may have more classes than the zeros.
        self.hits = self.hits + hits
        self.predicted = self.predicted + predicted
        self.actual = self.actual + actual
        weighs = sample_weight is not None and sample_weight.dtype is torch.bool
        self.total = self.total + (sample_weight.sum() if weighs else target.numel())  # type: ignore[union-attr]

    def _mean(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Return the mean ratio over the classes that occur; NaN if no sample was counted."""
        ratios = torch.where(denominator > 0, widened(numerator) / denominator, 0.0)
        # Classes that neither occur nor are predicted have no ratio. All of this stays on the
        # device: how many classes are left would have to be read.
        occurs = self.predicted + self.actual > 0
        mean = _mean_where(ratios, occurs) if len(ratios) > 1 else ratios.mean()
        return mean.where(self.total > 0, torch.nan).float()


class Precision(CountingMetric):
    """The fraction of positive predictions that are correct: `TP / (TP + FP)`.

    For several classes, it is the mean over those that occur. It is 0 if nothing was predicted, as
    in scikit-learn, and NaN if no sample was counted.

    Args:
        num_classes: The number of classes; None infers it from the first batch.
        from_logits: Whether binary predictions are logits (positive above 0) or probabilities
            (positive above 0.5); None follows the model's loss, and is True outside of a model.

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
    """The fraction of positive targets that are predicted: `TP / (TP + FN)`.

    For several classes, it is the mean over those that occur. It is 0 if there are no positive
    targets, as in scikit-learn, and NaN if no sample was counted.

    Args:
        num_classes: The number of classes; None infers it from the first batch.
        from_logits: Whether binary predictions are logits (positive above 0) or probabilities
            (positive above 0.5); None follows the model's loss, and is True outside of a model.

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


class BalancedAccuracy(CountingMetric):
    """The mean recall of the classes that occur in the targets: the metric `"balanced_accuracy"`.

    It is the `balanced_accuracy_score` of scikit-learn, and NaN if no sample was counted.

    Args:
        num_classes: The number of classes; None infers it from the first batch.
        from_logits: Not used: the largest prediction decides.
    """

    def compute(self) -> Tensor:
        """Return the mean in [0, 1]."""
        return _mean_where(widened(self.hits) / self.actual, self.actual > 0).float()


class IOU(CountingMetric):
    """Intersection over union of predicted and true masks: `TP / (TP + FP + FN)`.

    The counts run over all elements of all samples. For several classes, it is the mean over those
    that occur. It is NaN if no sample was counted.

    Args:
        num_classes: The number of classes; None infers it from the first batch.
        from_logits: Whether binary predictions are logits (positive above 0) or probabilities
            (positive above 0.5); None follows the model's loss, and is True outside of a model.

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


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values in a mask, NaN if there are none."""
    return values.where(mask, 0.0).sum() / mask.sum()


def _class_counts(
    preds: Tensor, target: Tensor, least: float, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted counts of hits, predictions and targets, by class or for the positives.

    Args:
        preds: (N, C, ...), or as many numbers as targets.
        target: (N, ...).
        least: The threshold that a positive binary prediction exceeds.
        sample_weight: (N,) or (N, 1), or None.
    """
    by_class = preds.dim() == target.dim() + 1 and preds.shape[1] > 1
    if by_class and preds.argmax(1).shape == target.shape:
        classes, predicted, true = preds.shape[1], preds.argmax(1), target.long()
        # On accelerators, reading the largest class would synchronize with the device.
        if is_host(true) and target.numel() and int(true.max()) >= classes:
            message = f"got class {int(true.max())}, but predictions have {classes} classes"
            raise ValueError(message)
    elif preds.numel() == target.numel() and len(preds) == len(target):
        classes, predicted = 2, (preds > least).long().reshape(target.shape)
        true = (target > 0.5).long()
    else:
        message = (
            f"predictions of shape {tuple(preds.shape)} and targets of shape "
            f"{tuple(target.shape)} do not match; expected (N, C) and (N,), or equal sizes"
        )
        raise ValueError(message)
    weight = element_weights(true, None, sample_weight)
    weight = None if weight is None else weight.reshape(-1)
    predicted, true = predicted.reshape(-1), true.reshape(-1)
    counts = (
        _count_classes(true, classes, weight, predicted == true),
        _count_classes(predicted, classes, weight),
        _count_classes(true, classes, weight),
    )
    first = 0 if by_class else 1
    return counts[0][first:], counts[1][first:], counts[2][first:]


def _count_classes(
    numbers: Tensor, classes: int, weight: Tensor | None, mask: Tensor | None = None
) -> Tensor:
    """Return the weighted count of each class, without a synchronization with the device."""
    if weight is None:
        weight = torch.ones_like(numbers)
    elif weight.dtype is torch.bool:
        weight = weight.long()
    else:
        # Sums of float32 weights would round after some million samples.
        weight = widened(weight)
    weight = weight if mask is None else weight * mask
    bins = numbers.clamp(0, classes)  # numbers that are too large go to an extra bin
    # `bincount` would read the largest number from the device.
    return weight.new_zeros(classes + 1).scatter_add(0, bins, weight)[:classes]
