"""Accuracy without torchmetrics: correct predictions, and their fraction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.capabilities import widened

from .mean import ratio
from .targets import element_weights
from .unread import Unread, known


class HitRate:
    """The fraction of correct predictions: the metric `"acc"`.

    It computes the same values as `Accuracy`, but does not import torchmetrics, which takes seconds
    and up to 120 MB.

    Args:
        threshold: The threshold that positive binary predictions exceed.
    """

    higher_is_better = True

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold
        self._hits: Tensor | None = None
        self._total: float | Tensor = 0

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch, without a synchronization with the device."""
        count, total = weighted_hits(hits(preds, target, self.threshold), sample_weight)
        self._hits = count if self._hits is None else self._hits + count
        self._total = self._total + total

    def compute(self) -> float:
        """Return the fraction in [0, 1], NaN if no sample was counted."""
        # Synchronizes with the device.
        return self.unread().read()

    def unread(self) -> Unread[float]:
        """Return what `compute` returns, without a synchronization with the device."""
        if self._hits is None:
            return known(math.nan)
        if isinstance(self._total, Tensor):
            return Unread([self._hits, self._total], lambda rows: ratio(rows[0][0], rows[1][0]))
        total = self._total
        return Unread([self._hits], lambda rows: ratio(rows[0][0], total))

    def reset(self) -> None:
        """Discard all batches."""
        self._hits = None
        self._total = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"hits": self._hits, "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts."""
        self._hits, self._total = state["hits"], state["total"]

    def merge(self, parts: Sequence[HitRate]) -> None:
        """Replace the counts by the sums of those of `parts`."""
        self._hits = torch.stack([part._hits for part in parts if part._hits is not None]).sum()
        self._total = sum(part._total for part in parts)


def hits(preds: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Return which predictions are correct, as booleans in the target's shape.

    Args:
        preds: `(N, C, ...)` with C > 1, or one number per target.
        target: Class numbers `(N, ...)`, or binary targets of the predictions' size.
        threshold: The threshold that positive binary predictions exceed.

    Raises:
        ValueError: The shapes do not match.
    """
    if preds.dim() == target.dim() + 1 and preds.shape[1] > 1:
        # Logits and probabilities have the same largest class.
        return preds.argmax(1) == target
    if preds.numel() == target.numel() and len(preds) == len(target):
        return (preds > threshold).reshape(target.shape) == (target > 0.5)
    message = (
        f"accuracy got predictions of shape {tuple(preds.shape)} and targets of shape "
        f"{tuple(target.shape)}; expected (N, C) and (N,), or equal sizes"
    )
    raise ValueError(message)


def threshold(from_logits: bool | None) -> float:
    """Return the threshold that positive binary predictions exceed."""
    return 0.5 if from_logits is False else 0.0


def weighted_hits(hit: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, int | Tensor]:
    """Return the weighted number of correct predictions, and of all targets.

    Args:
        hit: Whether each prediction is correct.
        sample_weight: A weight for each sample or for each target, booleans for targets that count
            or do not, or None.
    """
    if sample_weight is None:
        return hit.sum(), hit.numel()
    if sample_weight.dtype is torch.bool:  # whether a target counts
        return (hit & sample_weight.reshape(hit.shape)).sum(), sample_weight.sum()
    weight = element_weights(hit, None, sample_weight)
    assert weight is not None
    # A sum of many float32 weights would round.
    wide = widened(weight)
    return (hit * wide).sum(), wide.sum()
