"""What all losses of ours share: arithmetic, and a reduction of losses per sample."""

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

    from_logits: bool | None = None  # whether predictions are logits, or else probabilities

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            message = f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}"
            raise ValueError(message)
        self.reduction = reduction

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss, a scalar, or with "none" what `unreduced` returns."""
        losses = self.unreduced(y_pred, y_true)
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def unreduced(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the losses of a batch, of shape (N, ...)."""
        raise NotImplementedError

    def check(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Refuse predictions and targets that do not fit; here nothing is known about that.

        Raises:
            MisfitError: It says what was got, what was expected and the way out.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"
