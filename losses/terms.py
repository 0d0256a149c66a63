"""The losses of an objective at work: what each adds to a batch's loss, and how much it counts."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from .call_adapters import call_of, parameter_of, per_label, reduction_of
from .names import formula_of
from .shape_checks import MisfitError, ignored_class
from .term import Term
from .weighted import WeightedTerm

TermValue = tuple[Tensor, "int | Tensor"]  # what a term adds to a batch's loss, and its share

_OVER_CLASSES = tuple(
    getattr(nn, name).forward
    for name in ("CrossEntropyLoss", "NLLLoss", "LinearCrossEntropyLoss")
    if hasattr(nn, name)  # the last one since torch 2.13
)


class NetLoss:
    """The `.loss` that the net's own output carries (Hugging Face)."""

    def __call__(self, y_pred: Any, _y_true: Any) -> Tensor:
        """Return it."""
        return y_pred.loss  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return "the net's own loss"


class LossTerm(WeightedTerm):
    """A loss of an objective.

    Args:
        term: The loss, its weight and the output that it compares.
        name: What its columns are called.
    """

    def __init__(self, term: Term, name: str) -> None:
        super().__init__(term, name)
        self.loss_fn: Any = term.fn
        self._call = call_of(term.fn)
        self._reduction = reduction_of(term.fn)
        self._reduces = not term.per_sample and self._reduction != "none"
        self._unreduced: Any = None
        self._over_classes = getattr(type(term.fn), "forward", None) in _OVER_CLASSES
        self._counts_lengths = isinstance(term.fn, nn.CTCLoss)

    @property
    def summed(self) -> bool:
        """Whether the loss of a batch is a sum over its samples instead of their mean."""
        return self._reduction == "sum"

    def __call__(self, y_pred: Any, y_true: Any, weight: Any) -> TermValue:
        """Return what the loss adds, weight and all, and the batch's share in the epoch's mean.

        Args:
            y_pred: The net's output, all of it.
            y_true: The targets, all of them.
            weight: A weight for each sample, of shape (N,) or (N, 1), a mapping of them to
                outputs, or None.
        """
        if self.term.output:
            y_pred, y_true, weight = self.select(y_pred, y_true, weight)
        if weight is None and self._reduces:
            loss = self._call(self.loss_fn, y_pred, y_true)
            share = self._normalizer(y_pred, y_true, None)
        else:
            loss, share = self._weighted(y_pred, y_true, weight)
        return self.weigh(loss), share

    def normalizer(self, y_pred: Any, y_true: Any, weight: Any = None) -> int | Tensor:
        """Return how much a batch counts in the epoch's mean.

        Args:
            y_pred: The net's output; asked only where there are no targets.
            y_true: The targets, all of them.
            weight: A weight for each sample, or None.
        """
        if self.term.output:
            y_pred, y_true, weight = self.select(y_pred, y_true, weight)
        return self._normalizer(y_pred, y_true, weight)

    def select(self, y_pred: Any, y_true: Any, weight: Any = None) -> tuple[Any, Any, Any]:
        """Return the output that the loss compares, its targets and its weights."""
        path = self.term.output
        if path:
            y_pred = None if y_pred is None else _output_at(y_pred, path, "the net's output has")
            y_true = None if y_true is None else _output_at(y_true, path, "the targets have")
            weight = _output_at(weight, path, "sample_weight has") if _is_tree(weight) else weight
        return y_pred, y_true, weight

    def _normalizer(self, y_pred: Any, y_true: Any, weight: Tensor | None) -> int | Tensor:
        counted = self._target_counts(y_true)
        if weight is not None:
            return _sum_of_counts(weight.reshape(-1), counted)
        if counted is not None:
            return counted.count_nonzero() if counted.dtype is torch.bool else counted.sum()
        if self._counts_lengths:
            return len(y_true[-1])  # of the lengths, since labels may lie in one row
        return first_length(y_pred if y_true is None else y_true)

    def _target_counts(self, y_true: Any) -> Tensor | None:
        """Return what each target counts where torch's mean divides by the sum of that, else None.

        That is so for class numbers, which may be ignored or weighted by class.
        """
        if not self._over_classes or not isinstance(y_true, Tensor) or y_true.is_floating_point():
            return None
        counted: Tensor = y_true != ignored_class(self.loss_fn)  # type: ignore[assignment]
        weight: Tensor | None = self.loss_fn.weight
        return counted if weight is None else weight[y_true.where(counted, 0).long()] * counted

    def _weighted(self, y_pred: Any, y_true: Any, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `sum(w * loss) / sum(w)` over the samples, and `sum(w)`.

        So weights of one change nothing: what torch's own mean divides by is weighted.
        """
        losses = self._losses(y_pred, y_true)
        if losses.dim() == 0 or (weight is not None and len(losses) != len(weight)):
            given = "" if weight is None else f" for {len(weight)} sample weights"
            message = (
                f"{formula_of(self.loss_fn)} gives losses of shape {tuple(losses.shape)}{given}; "
                "expected one loss per sample along dimension 0"
            )
            raise ValueError(message)
        weight = losses.new_ones(len(losses)) if weight is None else weight.reshape(-1)
        weight = weight.to(losses.dtype)
        counted = self._target_counts(y_true)
        summing = counted is not None or self._reduction in ("sum", "batchmean")
        if losses.dim() > 1 and not summing:
            losses = losses.flatten(1).mean(1)
        total = _sum_of_counts(weight, counted)
        weighted = (losses * _align_to_samples(weight, losses)).sum()
        if self.summed:
            return weighted, total
        return weighted / total.clamp_min(torch.finfo(losses.dtype).tiny), total

    def _losses(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return a loss for each sample, of shape (N, ...)."""
        if isinstance(self.loss_fn, nn.AdaptiveLogSoftmaxWithLoss):
            return -self.loss_fn(y_pred, y_true).output  # type: ignore[no-any-return]
        if self._unreduced is None:
            self._unreduced = self._make_unreduced()
        losses: Any = self._unreduced(y_pred, y_true)
        if not isinstance(losses, Tensor):
            message = (
                f"{formula_of(self.loss_fn)} gave a {type(losses).__name__}; expected a tensor"
            )
            raise TypeError(message)
        if isinstance(self.loss_fn, nn.CTCLoss) and not self.summed:
            return per_label(losses, y_true)
        return losses

    def _make_unreduced(self) -> Any:
        """Return how to get a loss per sample: `(y_pred, y_true) -> Tensor`."""
        if not self._reduces:
            return partial(self._call, self.loss_fn)
        if parameter_of(self.loss_fn, "reduction") is not None:
            return partial(self._call, partial(self.loss_fn, reduction="none"))
        if self._reduction is not None:
            return self._without_reduction
        message = (
            "sample_weight and class_weight need a loss per sample, which "
            f"{formula_of(self.loss_fn)} does not offer; return one, of shape (N,), and say so: "
            "fitorch.losses.term(loss_fn, per_sample=True), or give it a `reduction` that can be "
            "'none', as all losses of torch.nn have"
        )
        raise TypeError(message)

    def _without_reduction(self, y_pred: Any, y_true: Any) -> Any:
        """Call the loss itself, no copy of it: callbacks and modes may have changed it."""
        self.loss_fn.reduction = "none"
        try:
            return self._call(self.loss_fn, y_pred, y_true)
        finally:
            self.loss_fn.reduction = self._reduction


def first_length(tree: Any) -> int:
    """Return the number of samples in a batch of nested tensors.

    Raises:
        TypeError: There is something else where a tensor should be.
    """
    found: Any = tree
    while not isinstance(found, Tensor) and isinstance(found, (Mapping, list, tuple)):
        values = found.values() if isinstance(found, Mapping) else found
        found = next((value for value in values if value is not None), None)
    shape = getattr(found, "shape", ())
    if not shape:
        message = (
            f"can't tell how many samples a batch has: its targets are a {type(tree).__name__} "
            f"holding a {type(found).__name__}, where a tensor of shape (N, ...) is expected"
        )
        raise TypeError(message)
    samples: int = shape[0]
    return samples


def _is_tree(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _output_at(tree: Any, path: tuple[Any, ...], what: str) -> Any:
    """Return what the keys lead to, through mappings, sequences and attributes.

    Raises:
        MisfitError: It names the key and what there is.
    """
    return reduce(lambda found, key: _child(found, key, what), path, tree)


def _child(tree: Any, key: Any, what: str) -> Any:
    if isinstance(tree, Tensor):  # its .data and .real are no outputs
        raise MisfitError(_missing_output(tree, key, what))
    by_name = isinstance(key, str) and isinstance(tree, tuple)  # of a named tuple
    look_up: Any = getattr if by_name or not _is_tree(tree) else operator.getitem
    try:
        return look_up(tree, key)
    except (KeyError, IndexError, AttributeError, TypeError):
        raise MisfitError(_missing_output(tree, key, what)) from None


def _missing_output(found: Any, key: Any, what: str) -> str:
    if isinstance(found, Mapping):
        there = f"the keys {list(found)}"
    elif isinstance(found, (tuple, list)):
        there = f"{len(found)} part{'s' * (len(found) != 1)}"
    else:
        there = f"one {type(found).__name__}"
    return f"there is a loss for output {key!r}, but {what} {there}; loss_fn needs their names"


def _sum_of_counts(weight: Tensor, counted: Tensor | None) -> Tensor:
    return weight.sum() if counted is None else (_align_to_samples(weight, counted) * counted).sum()


def _align_to_samples(weight: Tensor, values: Tensor) -> Tensor:
    """Return the weights of samples in a shape that multiplies all values of each, (N, ...)."""
    return weight.reshape(-1, *[1] * (values.dim() - 1))
