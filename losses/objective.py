"""What training descends: a loss made ready, with the share each batch has in the epoch's mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .registry import Loss, get


class Objective:
    """The loss of a batch, and its share: how much the batch counts in the epoch's mean.

    The epoch's loss is `sum(loss * share) / sum(share)`. The share is the number of samples; with
    sample weights their sum; with class weights or ignored targets in a cross entropy the sum that
    torch's own mean divides by. So the epoch's figure does not depend on how samples are batched.

    Args:
        loss_fn: Maps `(y_pred, y_true)` to a scalar, or a loss' name; None uses the `.loss` that
            the net's own output carries (Hugging Face).
    """

    def __init__(self, loss_fn: str | Loss | None) -> None:
        self.loss_fn: Loss | None = None if loss_fn is None else get(loss_fn)
        self._unreduced: Loss | None = None
        self._share: Callable[[Any, Any], int | Tensor] | None = None

    @property
    def summed(self) -> bool:
        """Whether the loss of a batch is a sum over its samples instead of their mean."""
        return getattr(self.loss_fn, "reduction", None) == "sum"

    @property
    def name(self) -> str:
        """What to call the objective in a message."""
        if self.loss_fn is None:
            return "the net's own loss"
        return getattr(self.loss_fn, "__name__", type(self.loss_fn).__name__)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give the loss' own parameters."""
        if isinstance(self.loss_fn, nn.Module):
            yield from self.loss_fn.parameters()

    def to(self, device: torch.device) -> None:
        """Move the loss' parameters and buffers (class weights, say) to `device`."""
        if isinstance(self.loss_fn, nn.Module):
            self.loss_fn.to(device)

    def __call__(
        self, y_pred: Any, y_true: Any, weight: Tensor | None
    ) -> tuple[Tensor, int | Tensor]:
        """Return the loss, a scalar, and the batch's share.

        Args:
            y_pred: The net's output.
            y_true: The targets.
            weight: A weight for each sample, of shape (N,) or (N, 1), or None.
        """
        if weight is not None:
            return self._weighted(y_pred, y_true, weight)
        loss = y_pred.loss if self.loss_fn is None else self.loss_fn(y_pred, y_true)
        return loss, self.share(y_pred, y_true)

    def share(self, y_pred: Any, y_true: Any) -> int | Tensor:
        """Return how much a batch without sample weights counts in the epoch's mean."""
        if self._share is None:
            self._share = _choose_share(self.loss_fn, y_true)
        return self._share(y_pred, y_true)

    def _weighted(self, y_pred: Any, y_true: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return `sum(w * loss) / sum(w)` over the samples, and `sum(w)`."""
        if self._unreduced is None:
            self._unreduced = _unreduced(self.loss_fn, self.name)
        losses = self._unreduced(y_pred, y_true)
        weight = weight.reshape(-1).to(losses.dtype)
        if losses.dim() == 0 or len(losses) != len(weight):
            message = (
                f"{self.name} gives losses of shape {tuple(losses.shape)} for {len(weight)} sample "
                "weights; expected one loss per sample along dimension 0"
            )
            raise ValueError(message)
        if losses.dim() > 1:
            losses = losses.flatten(1).mean(1)
        total = weight.sum()
        weighted = (losses * weight).sum()
        if self.summed:
            return weighted, total
        return weighted / total.clamp_min(torch.finfo(losses.dtype).tiny), total


def first_length(tree: Any) -> int:
    """Return the number of samples in a batch of nested tensors."""
    while not isinstance(tree, Tensor):
        tree = next(iter(tree.values() if hasattr(tree, "values") else tree))
    return tree.shape[0]


def _unreduced(loss_fn: Loss | None, name: str) -> Loss:
    """Return a copy of `loss_fn` that gives a loss per sample."""
    if getattr(loss_fn, "reduction", None) not in ("mean", "sum", "none", "batchmean"):
        message = (
            f"sample_weight and class_weight need a loss per sample, which {name} does not offer; "
            "use a loss with a `reduction` attribute (all of torch.nn), whose 'none' gives one"
        )
        raise TypeError(message)
    unreduced = copy.copy(loss_fn)
    unreduced.reduction = "none"  # type: ignore[union-attr]
    return unreduced  # type: ignore[return-value]


def _choose_share(loss_fn: Loss | None, y_true: Any) -> Callable[[Any, Any], int | Tensor]:
    if isinstance(y_true, Tensor):
        if type(loss_fn) in (nn.CrossEntropyLoss, nn.NLLLoss) and _counts_targets(loss_fn, y_true):
            return lambda _, y_true: _target_weight(loss_fn, y_true)
        return lambda _, y_true: y_true.shape[0]
    if y_true is None:
        return lambda y_pred, _: first_length(y_pred)
    return lambda _, y_true: first_length(y_true)


def _counts_targets(loss_fn: Any, y_true: Tensor) -> bool:
    """Say whether torch's mean may divide by something else than the number of samples."""
    special = loss_fn.weight is not None or loss_fn.ignore_index >= 0 or y_true.dim() > 1
    return special and not y_true.is_floating_point()


def _target_weight(loss_fn: Any, y_true: Tensor) -> Tensor:
    """Return the sum of the weights of the targets that are not ignored."""
    counted: Tensor = y_true != loss_fn.ignore_index
    weight: Tensor | None = loss_fn.weight
    if weight is None:
        return counted.sum()
    return (weight[y_true.where(counted, 0)] * counted).sum()
