"""Focal loss: binary, multi-label and multi-class, from probabilities or logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fitorch.devices.accelerators import HOST

from .base import ReducedLoss
from .shape_checks import MisfitError, check_labels, check_probabilities, is_class_numbers


class FocalLoss(ReducedLoss):
    """Cross entropy that down-weights easy samples: `-alpha_t * (1 - p_t)**gamma * log(p_t)`.

    `p_t` is the predicted probability of the true class. Float targets of the predictions' shape
    (N, ...) are binary or multi-label; class numbers (N, ...) with predictions (N, C, ...) are
    multi-class.

    Args:
        gamma: The exponent that down-weights easy samples; 0 is cross entropy.
        alpha: The weight of positive samples, in [0, 1]; negative samples have `1 - alpha`. For
            several classes, a weight for each, or one number for all. None is 1.
        from_logits: Whether predictions are logits, which is exact for large ones too; False for
            probabilities.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: `gamma`, `alpha` or `reduction` is out of range.

    Example:
        >>> import torch
        >>> from fitorch.losses import FocalLoss
        >>> hard, easy = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
        >>> truth = torch.tensor([1.0, 0.0])
        >>> [round(FocalLoss()(p, truth).item(), 4) for p in (hard, easy)]
        [0.0866, 0.0005]

    Source: Lin, Goyal, Girshick, He and Dollar, 2017, Focal Loss for Dense Object Detection,
    equation 5, arXiv 1708.02002.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = 0.75,
        *,
        from_logits: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if not 0 <= gamma < math.inf:
            message = f"gamma must be 0 or more, got {gamma!r}"
            raise ValueError(message)
        self.gamma = float(gamma)
        self.from_logits = from_logits
        weights = (
            None if alpha is None else torch.as_tensor(alpha, dtype=torch.float32, device=HOST)
        )
        if weights is not None and not (
            ((weights >= 0) & weights.isfinite()).all() and (weights.dim() or weights <= 1)
        ):
            message = f"alpha must be in [0, 1], a weight for each class, or None; got {alpha!r}"
            raise ValueError(message)
        by_class = weights is not None and weights.dim() > 0
        self.alpha = None if by_class or alpha is None else float(alpha)  # type: ignore[arg-type]
        # A buffer moves to the device with the loss and is saved with it.
        self.register_buffer("class_alpha", weights if by_class else None)
        self.class_alpha: Tensor | None

    def unreduced(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of each element, of the targets' shape."""
        if is_class_numbers(y_pred, y_true):
            return self._multi_class(y_pred, y_true)
        return self._binary(y_pred, y_true)

    def check(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Check that predictions and targets fit the loss."""
        name = type(self).__name__
        classes = check_labels(name, y_pred, y_true)
        if self.class_alpha is not None and len(self.class_alpha) != classes:
            raise MisfitError(self._alpha_message(classes))
        if not self.from_logits:
            check_probabilities(name, y_pred, "pass FocalLoss(from_logits=True)")

    def extra_repr(self) -> str:
        """Return the arguments."""
        alpha = f"{self.alpha}"
        if self.class_alpha is not None:
            alpha = f"[{', '.join(f'{weight:g}' for weight in self.class_alpha.tolist())}]"
        logits = ", from_logits=True" if self.from_logits else ""
        return f"gamma={self.gamma:g}, alpha={alpha}{logits}"

    def _alpha_message(self, classes: int | None) -> str:
        weights = 0 if self.class_alpha is None else len(self.class_alpha)
        if classes is None:
            return (
                f"FocalLoss has {weights} weights in alpha, but targets that are 0 or 1 for each "
                "output; pass alpha as one number, the weight of the ones"
            )
        return (
            f"FocalLoss has {weights} weights in alpha, but the net's output has {classes} "
            "classes; pass one weight per class"
        )

    def _binary(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        if self.class_alpha is not None:
            raise MisfitError(self._alpha_message(None))
        if self.from_logits:
            cross_entropy = F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none")
            # The sigmoid of the negative is exact where 1 - sigmoid would cancel digits.
            positive, negative = y_pred.sigmoid(), (-y_pred).sigmoid()
        else:
            cross_entropy = F.binary_cross_entropy(y_pred, y_true, reduction="none")
            positive, negative = y_pred, 1 - y_pred
        missed = y_true * negative + (1 - y_true) * positive  # 1 - p_t, without cancellation
        losses = _power(missed, self.gamma) * cross_entropy
        if self.alpha is None:
            return losses
        return losses * (y_true * self.alpha + (1 - y_true) * (1 - self.alpha))

    def _multi_class(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        p = y_pred.log_softmax(1) if self.from_logits else y_pred
        # `gather` needs int64.
        log_pt = p.gather(1, y_true.long().unsqueeze(1)).squeeze(1)
        if not self.from_logits:  # a probability of 0 would give log(0) = -inf
            log_pt = log_pt.clamp_min(torch.finfo(log_pt.dtype).tiny).log()
        # -expm1(log p) is 1 - p without cancellation for p near 1.
        losses = -_power(-log_pt.expm1(), self.gamma) * log_pt
        if self.class_alpha is not None:
            # The weights are looked up on the device, without a read.
            return losses * self.class_alpha.to(losses.dtype)[y_true.long()]
        return losses if self.alpha is None else losses * self.alpha


def _power(base: Tensor, exponent: float) -> Tensor:
    """Return `base ** exponent`, with a finite gradient at 0 for exponents below 1 too."""
    return base if exponent == 1 else base.clamp_min(torch.finfo(base.dtype).tiny) ** exponent
