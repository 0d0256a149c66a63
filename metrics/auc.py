"""The area under the ROC curve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class AUC(Metric):
    """The probability that a positive sample scores higher than a negative one, ties counted half.

    Exact: every score is kept (8 bytes a sample or so). Logits and probabilities give the same
    figure, as only their order counts. Predictions and targets are `(N,)` or `(N, 1)`.

    Example:
        >>> import torch
        >>> metric = AUC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # 3 of the 4 pairs are in order
        tensor(0.7500)

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    positives: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("positives", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Keep a batch's scores.

        Raises:
            ValueError: There is not one score per target.
        """
        if preds.numel() != target.numel() or len(preds) != len(target):
            message = (
                f"AUC got predictions of shape {tuple(preds.shape)} and targets of shape "
                f"{tuple(target.shape)}; expected one score per target, (N,) or (N, 1)"
            )
            raise ValueError(message)
        self.scores.append(preds.detach().reshape(-1))
        self.positives.append(target.reshape(-1) > 0.5)

    def compute(self) -> Tensor:
        """Return the area in [0, 1], NaN where a class is missing or a score is NaN."""
        if not len(self.scores):
            return torch.tensor(torch.nan)
        scores, positive = dim_zero_cat(self.scores), dim_zero_cat(self.positives)
        if scores.isnan().any():
            return torch.tensor(torch.nan)
        values, place = scores.unique(return_inverse=True)
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        hits = torch.zeros(len(values), dtype=wide, device=scores.device)
        hits.index_add_(0, place, positive.to(wide))
        misses = torch.zeros_like(hits).index_add_(0, place, (~positive).to(wide))
        below = misses.cumsum(0) - misses
        pairs = hits.sum() * misses.sum()
        return ((hits * (below + misses / 2)).sum() / pairs).float()
