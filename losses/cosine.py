"""Cosine loss, for vectors whose direction matters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import ReducedLoss
from .shape_checks import check_floating, check_same_shape


class CosineLoss(ReducedLoss):
    """One minus the cosine of the angle between prediction and target, from 0 to 2.

    Args:
        dim: The dimension of the vectors, (N, D) by default.
        eps: The lower bound of norms, which prevents a division by 0.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: `reduction` is unknown.

    Example:
        >>> import torch
        >>> from fitorch.losses import CosineLoss
        >>> CosineLoss()(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(1.)
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8, *, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.dim = dim
        self.eps = eps

    def unreduced(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of each vector, of the predictions' shape without `dim`."""
        return 1 - F.cosine_similarity(y_pred, y_true, dim=self.dim, eps=self.eps)

    def check(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Check that predictions and targets fit the loss."""
        check_same_shape(type(self).__name__, y_pred, y_true)
        check_floating(type(self).__name__, y_true)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return "" if self.dim == 1 else f"dim={self.dim}"
