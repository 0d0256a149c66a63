"""Accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .hits import hits


class Accuracy(Metric):
    """The fraction of targets that the predictions hit.

    Predictions `(N, C, ...)` with C > 1 and class numbers `(N, ...)` are compared by the largest
    class; predictions and targets of one size, `(N,)` or `(N, 1)` or `(N, L)`, element by element
    against the threshold: 0 for logits, 0.5 for probabilities.

    Args:
        from_logits: Binary predictions are logits, not probabilities.

    Example:
        >>> import torch
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([2.0, -1.0, 0.5, -3.0]), torch.tensor([1, 0, 0, 0]))
        >>> metric.compute()  # 3 of 4
        tensor(0.7500)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, from_logits: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = 0.0 if from_logits else 0.5
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch in.

        Raises:
            ValueError: The shapes can't be compared.
        """
        hit = hits(preds, target, self.threshold)
        self.correct = self.correct + hit.sum()
        self.total = self.total + hit.numel()

    def compute(self) -> Tensor:
        """Return the accuracy in [0, 1], NaN where nothing was counted."""
        return self.correct.float() / self.total
