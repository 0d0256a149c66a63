"""What training descends: a loss made ready, with the share each batch has in the epoch's mean."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .registry import Loss, get

_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)


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

    @property
    def summed(self) -> bool:
        """Whether the loss of a batch is a sum over its samples instead of their mean."""
        return self._reduction == "sum"

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

    def share(self, y_pred: Any, y_true: Any, weight: Tensor | None = None) -> int | Tensor:
        """Return how much a batch counts in the epoch's mean.

        Args:
            y_pred: The net's output; asked only where there are no targets.
            y_true: The targets.
            weight: A weight for each sample, of shape (N,) or (N, 1), or None.
        """
        counted = _target_weights(self.loss_fn, y_true)
        if weight is not None:
            return _total(weight.reshape(-1), counted)
        if counted is not None:
            return counted.count_nonzero() if counted.dtype is torch.bool else counted.sum()
        return first_length(y_pred if y_true is None else y_true)

    def _weighted(self, y_pred: Any, y_true: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return `sum(w * loss) / sum(w)` over the samples, and `sum(w)`.

        So weights of one change nothing: what torch's own mean divides by is weighted.
        """
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
        counted = _target_weights(self.loss_fn, y_true)
        summing = counted is not None or self._reduction in ("sum", "batchmean")
        if losses.dim() > 1 and not summing:
            losses = losses.flatten(1).mean(1)
        total = _total(weight, counted)
        weighted = (losses * _beside(weight, losses)).sum()
        if self.summed:
            return weighted, total
        return weighted / total.clamp_min(torch.finfo(losses.dtype).tiny), total

    @property
    def _reduction(self) -> str | None:
        return getattr(self.loss_fn, "reduction", None)


def first_length(tree: Any) -> int:
    """Return the number of samples in a batch of nested tensors.

    Raises:
        TypeError: There is something else where a tensor should be.
    """
    found: Any = tree
    while isinstance(found, (Mapping, list, tuple)):
        found = next(iter(found.values() if isinstance(found, Mapping) else found), None)
    if not hasattr(found, "shape") or not found.shape:
        message = (
            f"can't tell how many samples a batch has: its targets are a {type(tree).__name__} "
            f"holding a {type(found).__name__}, where a tensor of shape (N, ...) is expected"
        )
        raise TypeError(message)
    samples: int = found.shape[0]
    return samples


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


def _target_weights(loss_fn: Any, y_true: Any) -> Tensor | None:
    """Return what each target counts where torch's mean divides by the sum of that, else None.

    That is so for class numbers, which may be ignored or weighted by class.
    """
    if type(loss_fn) not in _OVER_CLASSES or not isinstance(y_true, Tensor):
        return None
    if y_true.is_floating_point():
        return None
    counted: Tensor = y_true != loss_fn.ignore_index
    weight: Tensor | None = loss_fn.weight
    return counted if weight is None else weight[y_true.where(counted, 0)] * counted


def _total(weight: Tensor, counted: Tensor | None) -> Tensor:
    return weight.sum() if counted is None else (_beside(weight, counted) * counted).sum()


def _beside(weight: Tensor, values: Tensor) -> Tensor:
    """Return the weights of samples in a shape that multiplies all values of each, (N, ...)."""
    return weight.reshape(-1, *[1] * (values.dim() - 1))
