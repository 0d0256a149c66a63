"""Symmetric cross entropy, for noisy labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import ReducedLoss
from .shape_checks import MisfitError, check_labels, check_probabilities, is_class_numbers

_MIN_P = 1e-4  # the lower bound of probabilities, so that the logarithm of a label 0 is finite


class SCELoss(ReducedLoss):
    """Cross entropy plus its reverse: `a * H(y, p) + b * H(p, y)`.

    In the reverse cross entropy, the logarithm is of the labels, which gives less weight to labels
    with a low predicted probability, such as wrong ones. Class numbers (N, ...) with predictions
    (N, C, ...) are multi-class; float targets of the predictions' shape are binary.

    Args:
        num_classes: The number of classes; None infers it from the predictions.
        a: The weight of the cross entropy.
        b: The weight of the reverse cross entropy.
        from_logits: Whether predictions are logits; False for probabilities.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: `reduction` is unknown.

    Example:
        >>> import torch
        >>> from fitorch.losses import SCELoss
        >>> p, clean, noisy = torch.tensor([0.8]), torch.tensor([1.0]), torch.tensor([0.0])
        >>> forward, reverse = SCELoss(b=0, from_logits=False), SCELoss(a=0, from_logits=False)
        >>> [round((reverse(p, y) / forward(p, y)).item(), 4) for y in (clean, noisy)]
        [8.2502, 4.5786]

    Source: Wang, Ma, Chen, Luo, Yi and Bailey, 2019, Symmetric Cross Entropy for Robust Learning
    with Noisy Labels, equations 5 and 6, arXiv 1908.06112.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        a: float = 1.0,
        b: float = 1.0,
        *,
        from_logits: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.num_classes = num_classes
        self.a = a
        self.b = b
        self.from_logits = from_logits

    def unreduced(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of each element, of the targets' shape."""
        if is_class_numbers(y_pred, y_true):
            forward, reverse = self._multi_class(y_pred, y_true.long())
        else:
            forward, reverse = self._binary(y_pred, y_true)
        return self.a * forward + self.b * reverse

    def check(self, y_pred: Tensor, y_true: Tensor) -> None:
        """Check that predictions and targets fit the loss."""
        name = type(self).__name__
        classes = check_labels(name, y_pred, y_true)
        if classes is not None and self.num_classes not in (None, classes):
            message = (
                f"SCELoss has num_classes={self.num_classes}, but the net's output has "
                f"{classes} classes; omit the argument"
            )
            raise MisfitError(message)
        if not self.from_logits:
            check_probabilities(name, y_pred, "pass SCELoss(from_logits=True)")

    def extra_repr(self) -> str:
        """Return the arguments."""
        probabilities = "" if self.from_logits else ", from_logits=False"
        return f"a={self.a:g}, b={self.b:g}{probabilities}"

    def _multi_class(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
        p = y_pred.softmax(1) if self.from_logits else y_pred
        # The clamp keeps logarithms finite; outside of its bounds it has no gradient.
        p = p.clamp(_MIN_P, 1.0)
        if self.from_logits:
            forward = F.cross_entropy(y_pred, y_true, reduction="none")
        else:
            forward = -p.gather(1, y_true.unsqueeze(1)).squeeze(1).log()
        one_hot = F.one_hot(y_true, y_pred.shape[1]).movedim(-1, 1).to(p.dtype)
        return forward, -(p * one_hot.clamp(_MIN_P, 1.0).log()).sum(1)

    def _binary(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
        p = (y_pred.sigmoid() if self.from_logits else y_pred).clamp(_MIN_P, 1 - _MIN_P)
        y = y_true.clamp(_MIN_P, 1 - _MIN_P)
        if self.from_logits:
            forward = F.binary_cross_entropy_with_logits(y_pred, y, reduction="none")
        else:
            forward = _cross_entropy(y, p)
        return forward, _cross_entropy(p, y)


def _cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Return H(p, q) of two binary distributions."""
    return -torch.xlogy(p, q) - torch.xlogy(1 - p, 1 - q)
