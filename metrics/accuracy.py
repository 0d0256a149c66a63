"""Accuracy as a torchmetrics object."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .hits import hits, threshold, weighted_hits
from .score import Score


class Accuracy(Score):
    """The fraction of correct predictions.

    For predictions `(N, C, ...)` with C > 1 and class numbers `(N, ...)`, the predicted class is
    the one with the largest value. Predictions and targets of equal size, `(N,)`, `(N, 1)` or
    `(N, L)`, are compared element by element, with a threshold of 0 for logits and 0.5 for
    probabilities.

    Args:
        from_logits: Whether binary predictions are logits; None follows the model's loss, and is
            True outside of a model.

    Example:
        >>> import torch
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([2.0, -1.0, 0.5, -3.0]), torch.tensor([1, 0, 0, 0]))
        >>> metric.compute()  # 3 of 4
        tensor(0.7500)
    """

    correct: Tensor
    total: Tensor

    def __init__(self, from_logits: bool | None = None, **kwargs: Any) -> None:
        super().__init__(from_logits, **kwargs)
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            preds: (N, C, ...) with C > 1, or one number per target.
            target: Class numbers (N, ...), or binary targets of the predictions' size.
            sample_weight: A weight for each sample, (N,) or (N, 1), or None.

        Raises:
            ValueError: The shapes do not match.
        """
        hit = hits(preds, target, threshold(self.from_logits))
        correct, total = weighted_hits(hit, sample_weight)
        # The counts stay on the device: nothing is read before `compute`.
        self.correct = self.correct + correct
        self.total = self.total + total

    def compute(self) -> Tensor:
        """Return the accuracy in [0, 1], NaN if no batch was added."""
        return (self.correct / self.total).float()
