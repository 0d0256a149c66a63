"""Accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


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
        if preds.dim() == target.dim() + 1 and preds.shape[1] > 1:
            hits = preds.argmax(1) == target
        elif preds.numel() == target.numel() and len(preds) == len(target):
            hits = (preds > self.threshold).reshape(target.shape) == (target > 0.5)
        else:
            message = (
                f"Accuracy got predictions of shape {tuple(preds.shape)} and targets of shape "
                f"{tuple(target.shape)}; expected (N, C) and (N,), or equal sizes"
            )
            raise ValueError(message)
        self.correct = self.correct + hits.sum()
        self.total = self.total + hits.numel()

    def compute(self) -> Tensor:
        """Return the accuracy in [0, 1], NaN where nothing was counted."""
        return self.correct.float() / self.total
