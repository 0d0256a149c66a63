"""Ranking metrics AUC and KS: how well scores separate positive samples from negative ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from fitorch.devices.accelerators import is_host
from fitorch.devices.capabilities import widest_float

from .score import Score
from .targets import element_weights


class RankingMetric(Score):
    """Base class of AUC and KS: the numbers of positive and negative samples for each score.

    Args:
        thresholds: None keeps every score, which is exact; a number divides the probabilities into
            that many bins, which needs constant memory.
        from_logits: Whether predictions are logits, which matters for bins only; None follows the
            model's loss, and is True outside of a model.
    """

    scores: list[Tensor]
    positives: list[Tensor]
    weights: list[Tensor]
    positive_bins: Tensor
    negative_bins: Tensor
    unordered: Tensor

    def __init__(
        self, thresholds: int | None = None, *, from_logits: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(from_logits, **kwargs)
        if thresholds is not None and not thresholds >= 2:
            message = f"thresholds must be None or at least 2, got {thresholds!r}"
            raise ValueError(message)
        self.thresholds = thresholds
        if thresholds is None:
            self.add_state("scores", [], dist_reduce_fx="cat")
            self.add_state("positives", [], dist_reduce_fx="cat")
            self.add_state("weights", [], dist_reduce_fx="cat")
        else:
            for name in ("positive_bins", "negative_bins"):
                zeros = torch.zeros(thresholds, dtype=torch.int64)
                self.add_state(name, zeros, dist_reduce_fx="sum")
            self.add_state("unordered", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def needs_prediction_kind(self) -> bool:
        """Whether the value depends on the kind of predictions: only bins do."""
        return self.thresholds is not None

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            preds: A score for each sample, (N,) or (N, 1).
            target: 0 or 1 for each sample, of the same size.
            sample_weight: A weight for each sample, of the same size, or None.

        Raises:
            ValueError: There is not one score per target.
        """
        if preds.numel() != target.numel() or len(preds) != len(target):
            message = (
                f"{type(self).__name__} got predictions of shape {tuple(preds.shape)} and targets "
                f"of shape {tuple(target.shape)}; expected one score per target, (N,) or (N, 1)"
            )
            raise ValueError(message)
        scores, positive = preds.detach().reshape(-1), target.reshape(-1) > 0.5
        weight = element_weights(target, None, sample_weight)
        weight = None if weight is None else weight.reshape(-1)
        if weight is not None and weight.dtype is torch.bool:
            if is_host(weight):
                scores, positive, weight = scores[weight], positive[weight], None
            else:
                # How many are left would have to be read; a NaN among the others does not count.
                scores = scores.where(weight, 0)
        # Scores are kept as they are, and sorted once, at the end.
        if self.thresholds is None:
            self.scores.append(scores)
            self.positives.append(positive)
            if weight is not None:
                self.weights.append(weight)
        else:
            self._fill_bins(self.thresholds, scores, positive, weight)

    def __repr__(self) -> str:
        bins = "" if self.thresholds is None else f"thresholds={self.thresholds}"
        return f"{type(self).__name__}({bins})"

    def _fill_bins(
        self, bins: int, scores: Tensor, positive: Tensor, weight: Tensor | None
    ) -> None:
        probability = scores.float()
        if self.from_logits is not False:
            probability = probability.sigmoid()
        # NaN has no bin: it is counted apart, and makes the value NaN.
        index = (probability.nan_to_num() * bins).long().clamp(0, bins - 1)
        self.unordered = self.unordered + probability.isnan().sum()
        for name, mask in (("positive_bins", positive), ("negative_bins", ~positive)):
            counts = (
                mask.long() if weight is None else weight.to(widest_float(weight.device)) * mask
            )
            total = getattr(self, name)
            # The sum is a new tensor: integer counts become float64 with the first weights.
            setattr(
                self,
                name,
                total + total.new_zeros(bins, dtype=counts.dtype).index_add(0, index, counts),
            )

    def counts(self) -> tuple[Tensor, Tensor]:
        """Return the numbers of positive and negative samples for each score, in ascending order.

        Both are NaN if a score is NaN. How many scores there are is read from the device.
        """
        positives, negatives, last = self._cumulated()
        zero = positives.new_zeros(1)
        return positives[last].diff(prepend=zero), negatives[last].diff(prepend=zero)

    def _cumulated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the numbers of positive and negative samples up to each one, in ascending order.

        Both are NaN if a score is NaN. The third tensor is true for the last sample of each score:
        equal scores are in any order. Nothing is read from the device.
        """
        if self.thresholds is not None:
            wide = widest_float(self.positive_bins.device)
            counts = torch.stack([self.positive_bins, self.negative_bins]).to(wide).cumsum(1)
            positives, negatives = counts.where(self.unordered == 0, torch.nan)
            return positives, negatives, torch.ones_like(positives, dtype=torch.bool)
        scores = dim_zero_cat(self.scores) if len(self.scores) else torch.zeros(0)
        if not len(scores):
            return torch.zeros(1), torch.zeros(1), torch.ones(1, dtype=torch.bool)
        wide, order = widest_float(scores.device), scores.argsort()
        scores, positive = scores[order], dim_zero_cat(self.positives)[order].to(wide)
        weight = dim_zero_cat(self.weights).to(wide)[order] if len(self.weights) else None
        last = torch.ones_like(scores, dtype=torch.bool)
        last[:-1] = scores[1:] != scores[:-1]
        negative = 1 - positive
        if weight is not None:
            positive, negative = positive * weight, negative * weight
        # The sums are float64, in which counts are exact up to 2**53. NaN sorts to the end.
        counts = torch.stack([positive, negative]).cumsum(1)
        positives, negatives = counts.where(~scores[-1].isnan(), torch.nan)
        return positives, negatives, last


class AUC(RankingMetric):
    """Area under the ROC curve: the probability that a positive sample has the higher score.

    Ties between a positive and a negative sample count half. The value is exact: every score is
    kept (5 bytes per sample), unless `thresholds` is a number of bins. Logits and probabilities
    give the same value, because only their order matters. Predictions and targets have shape
    `(N,)` or `(N, 1)`. The value is NaN if one of the classes is missing.

    Args:
        thresholds: None is exact; a number of bins, such as 1000, needs constant memory.
        from_logits: Whether predictions are logits, which matters for bins only; None follows the
            model's loss, and is True outside of a model.

    Raises:
        ValueError: `thresholds` is less than 2.

    Example:
        >>> import torch
        >>> metric = AUC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # 3 of the 4 pairs are in order
        tensor(0.7500)

    Source: Hanley and McNeil, 1982, The meaning and use of the area under a ROC curve.
    """

    def compute(self) -> Tensor:
        """Return the area in [0, 1], NaN if a class is missing or a score is NaN."""
        positives, negatives, last = self._cumulated()
        # For each score, the samples with a lower one are those up to the end of the score before.
        ends = torch.arange(1, len(last) + 1, device=last.device).where(last, 0).cummax(0).values
        before = torch.cat([ends.new_zeros(1), ends[:-1]])
        lower_positives, lower_negatives = (
            torch.cat([counts.new_zeros(1), counts])[before] for counts in (positives, negatives)
        )
        # Each positive is in order with all lower negatives, and with half of the equal ones.
        ordered = (positives - lower_positives) * (lower_negatives + negatives) / 2
        return (ordered.where(last, 0.0).sum() / (positives[-1] * negatives[-1])).float()


class KS(RankingMetric):
    """Kolmogorov-Smirnov statistic: the largest distance between the scores' distributions.

    The distance is between the cumulative distribution functions of the positive and the negative
    samples' scores. It is 0 if they are equal, and 1 if a threshold separates the classes. Shapes
    and exactness are as for `AUC`. The value is NaN if one of the classes is missing.

    Args:
        thresholds: None is exact; a number of bins, such as 1000, needs constant memory.
        from_logits: Whether predictions are logits, which matters for bins only; None follows the
            model's loss, and is True outside of a model.

    Raises:
        ValueError: `thresholds` is less than 2.

    Example:
        >>> import torch
        >>> metric = KS()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # below 0.2 lies half of the negatives, and no positive
        tensor(0.5000)
    """

    def compute(self) -> Tensor:
        """Return the statistic in [0, 1], NaN if a class is missing or a score is NaN."""
        positives, negatives, last = self._cumulated()
        distance = (positives / positives[-1] - negatives / negatives[-1]).abs()
        return distance.where(last, 0.0).max().float()
