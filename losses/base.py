"""The base class of fitorch's losses: arithmetic, and the reduction of losses per sample."""

from __future__ import annotations

from torch import Tensor, nn

from .compose import Composable

_REDUCTIONS = ("mean", "sum", "none")


class ReducedLoss(Composable, nn.Module):
    """A loss that is computed sample by sample, or element by element, and then reduced.

    Args:
        reduction: "mean", "sum" or "none", as in torch.

    Raises:
        ValueError: The reduction is none of these.
    """

    # Whether predictions are logits (True) or probabilities (False); None for neither.
    from_logits: bool | None = None

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            message = f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}"
            raise ValueError(message)
        self.reduction = reduction

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss, a scalar, or with "none" what `unreduced` returns."""
        losses = self.unreduced(y_pred, y_true)
        # Without a reduction, sample weights can be applied afterwards.
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def unreduced(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the losses of a batch, of shape (N, ...)."""
        raise NotImplementedError

    def check(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Check that predictions and targets fit the loss; the base class accepts everything.

        Raises:
            MisfitError: They do not fit.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"
