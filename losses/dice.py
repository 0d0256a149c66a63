"""Dice loss, for segmentation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import ReducedLoss
from .shape_checks import check_labels, check_probabilities, is_class_numbers


class DiceLoss(ReducedLoss):
    """One minus the overlap of two masks: `1 - (2*sum(p*y) + s) / (sum(p+y) + s)`.

    The sums run over the elements of one sample, so that the loss does not depend on the batch.
    Float masks have the predictions' shape (N, ...). For class numbers (N, ...) with predictions
    (N, C, ...), the loss is the mean over the C classes.

    Args:
        smooth: The term s in the formula, added to both sums, so that two empty masks agree.
        from_logits: Whether predictions are logits; False for probabilities.
        reduction: "mean", "sum" or "none" over the samples.

    Raises:
        ValueError: `smooth` is negative, or `reduction` is unknown.

    Example:
        >>> import torch
        >>> from fitorch.losses import DiceLoss
        >>> mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
        >>> DiceLoss(smooth=0.0)(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), mask)  # 1 - 2 / 3
        tensor(0.3333)

    Source: Milletari, Navab and Ahmadi, 2016, V-Net, section 3, with sums in place of the sums of
    squares, arXiv 1606.04797.
    """

    def __init__(
        self, smooth: float = 1.0, *, from_logits: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if not smooth >= 0:
            message = f"smooth must be 0 or more, got {smooth!r}"
            raise ValueError(message)
        self.smooth = smooth
        self.from_logits = from_logits

    def unreduced(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of each sample, of shape (N,)."""
        if is_class_numbers(y_pred, y_true):
            p = y_pred.softmax(1) if self.from_logits else y_pred
            # The new dimension goes to the place of the classes in the predictions.
            y = F.one_hot(y_true.long(), y_pred.shape[1]).movedim(-1, 1).to(p.dtype)
            return self._dice_loss(p, y, 2).mean(1)
        p = y_pred.sigmoid() if self.from_logits else y_pred
        return self._dice_loss(p, y_true, 1)

    def check(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Check that predictions and targets fit the loss."""
        name = type(self).__name__
        check_labels(name, y_pred, y_true)
        if not self.from_logits:
            check_probabilities(name, y_pred, "pass DiceLoss(from_logits=True)")

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"smooth={self.smooth:g}{', from_logits=True' if self.from_logits else ''}"

    def _dice_loss(self, p: Tensor, y: Tensor, first: int) -> Tensor:
        """Return the loss of masks whose elements begin at dimension `first`."""
        # The extra dimension is for masks of one element, which leave nothing to flatten.
        p, y = p.unsqueeze(-1).flatten(first), y.unsqueeze(-1).flatten(first)
        overlap = 2 * (p * y).sum(-1) + self.smooth
        return 1 - overlap / (p.sum(-1) + y.sum(-1) + self.smooth)
