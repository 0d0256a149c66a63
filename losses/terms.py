"""Loss terms of an objective: their value for a batch, and its weight in the epoch's mean."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.devices.accelerators import HOST
from fitorch.nets.forward import IGNORED_TARGET

from .builtin import is_builtin, takes_tensors
from .call_adapters import (
    averages_over_classes,
    call_of,
    call_plain,
    class_options,
    parameter_of,
    per_label,
    reduction_of,
)
from .counting import has_ignored, samples_in, targets_in
from .names import formula_of
from .net_loss import NetLoss, TargetCount, logits_of
from .outputs import is_tree, output_at
from .parts import split_parts
from .term import Term
from .user_loss import SUM, explain_mean
from .weighted import WeightedTerm

TermValue = tuple[Tensor, "int | Tensor"]  # weighted value, and normalizer


class LossTerm(WeightedTerm):
    """A loss of an objective, evaluated batch by batch.

    Args:
        term: The loss, its weight and its output.
        name: The name of its columns.

    Attributes:
        parts: The parts of the loss of the last batch, if it returns them.
    """

    def __init__(self, term: Term, name: str) -> None:
        super().__init__(term, name)
        self.loss_fn: Any = term.fn
        self.parts: dict[str, Tensor] = {}
        self._call = call_of(term.fn)
        of_net = isinstance(term.fn, NetLoss)
        self._takes_tensors = takes_tensors(term.fn) and not of_net
        self._count_targets = TargetCount() if of_net else None
        # What a function of the user's is a mean over is found out with the first batch.
        self._of_user = not of_net and not self._takes_tensors
        self._counted: str | None = None  # "samples", or "targets" that are not -100
        self._reduction = reduction_of(term.fn)
        self._reduces = not term.per_sample and self._reduction != "none"
        self._unreduced: Any = None
        self._over_classes = averages_over_classes(term.fn)
        self._counts_lengths = is_builtin(term.fn, nn.CTCLoss)
        # Whether it is called with `(y_pred, y_true)` and is a mean over samples, without a look at
        # the targets.
        self._plain = self._takes_tensors and self._call is call_plain
        self._plain &= not self._over_classes and not self._counts_lengths

    @property
    def shifted(self) -> bool:
        """Whether the net's own loss compares each target with the logits of the token before."""
        return self._count_targets is not None and self._count_targets.shifted

    @property
    def counts_before(self) -> bool:
        """Whether the targets alone show what a batch counts, before the forward pass."""
        return self._takes_tensors

    def settle(self, y_pred: Any, y_true: Any) -> None:
        """Find out with a batch what a loss of the user's is a mean over, or whether it is a sum.

        Args:
            y_pred: The term's output.
            y_true: Its targets.
        """
        if not self._of_user or not isinstance(y_true, Tensor) or not y_true.dim():
            return
        samples = torch.ones(len(y_true), device=HOST)
        loss = partial(self._call, self.loss_fn)
        if self._reduction == "sum":
            found = explain_mean(loss, y_pred, y_true, {"samples": samples, SUM: None})
            if found == "samples":  # it divides by the number of samples itself
                self._reduction = "mean"
        if self._reduces and not self.summed and has_ignored(y_true):
            targets = (y_true != IGNORED_TARGET).reshape(len(y_true), -1).sum(1)
            found = explain_mean(loss, y_pred, y_true, {"targets": targets, "samples": samples})
            # A batch that does not tell, as one of a single sample, leaves an earlier answer.
            self._counted = found or self._counted
            if self._counted is None and y_true.dim() > 1:
                warnings.warn(
                    f"what {formula_of(self.loss_fn)} is a mean over is not known; a batch is "
                    "weighted by its targets that are not -100",
                    stacklevel=2,
                )

    @property
    def answer(self) -> list[Any]:
        """What `settle` has found out: whether the loss is a mean over samples, or a sum."""
        return [self._counted == "samples", self.summed]

    def restore_answer(self, answer: list[Any]) -> None:
        """Restore what an earlier batch has shown, in an epoch that is resumed."""
        by_sample, summed = answer
        self._counted = "samples" if by_sample else self._counted
        if self._of_user and self._reduction == "sum" and not summed:
            self._reduction = "mean"

    @property
    def summed(self) -> bool:
        """Whether the loss of a batch is a sum over its samples instead of a mean."""
        return self._reduction == "sum"

    def __call__(self, y_pred: Any, y_true: Any, weight: Any, batch: Any = None) -> TermValue:
        """Return the weighted loss of a batch, and its normalizer in the epoch's mean.

        Args:
            y_pred: The net's whole output.
            y_true: All targets.
            weight: A weight for each sample, of shape (N,) or (N, 1), a mapping from outputs to
                such weights, or None.
            batch: The batch, which has the number of samples if there are no targets.
        """
        if self.term.output or not isinstance(y_pred, Tensor):
            y_pred, y_true, weight = self.select(y_pred, y_true, weight)
        if weight is None and self._reduces:
            # The loss reduces itself, so that its bits are those of a hand-written loop.
            if self._plain and isinstance(y_true, Tensor) and y_true.dim():
                # A fast path for every step: a mean over samples, called as it is.
                loss: Any = self.loss_fn(y_pred, y_true)
                normalizer: int | Tensor = y_true.shape[0]
            else:
                loss = self._call(self.loss_fn, y_pred, y_true)
                if not isinstance(loss, Tensor):
                    loss = self._split(loss)
                elif self.parts:
                    self.parts = {}
                normalizer = self._normalizer(y_pred, y_true, None, batch)
        else:
            loss, normalizer = self._weighted(y_pred, y_true, weight, batch)
        return self.weigh(loss), normalizer

    def normalizer(self, y_pred: Any, y_true: Any, weight: Any = None) -> int | Tensor:
        """Return the normalizer of a batch: its weight in the epoch's mean.

        Args:
            y_pred: The net's output; used only if the targets are None.
            y_true: All targets.
            weight: A weight for each sample, or None.
        """
        y_pred, y_true, weight = self.select(y_pred, y_true, weight)
        return self._normalizer(y_pred, y_true, weight, None)

    def select(self, y_pred: Any, y_true: Any, weight: Any = None) -> tuple[Any, Any, Any]:
        """Return the term's output, its targets and its sample weights.

        Targets that are one tensor belong to every output. A loss that takes only tensors gets the
        logits of an output that has them beside other values.
        """
        path = self.term.output
        if path:
            y_pred = None if y_pred is None else output_at(y_pred, path, "the net's output has")
            if y_true is not None and not isinstance(y_true, Tensor):
                y_true = output_at(y_true, path, "the targets have")
            weight = output_at(weight, path, "sample_weight has") if is_tree(weight) else weight
        if self._takes_tensors and not isinstance(y_pred, Tensor):
            y_pred = logits_of(y_pred)
        return y_pred, y_true, weight

    def _split(self, result: Any) -> Any:
        """Return the loss to train on, and keep the parts of it for their columns."""
        loss, parts = split_parts(formula_of(self.loss_fn), result)
        self.parts = {name: self.weigh(part.detach()) for name, part in parts.items()}
        return loss

    def _normalizer(
        self, y_pred: Any, y_true: Any, weight: Tensor | None, batch: Any
    ) -> int | Tensor:
        if self._count_targets is not None and TargetCount.applies(y_true):
            return self._count_targets(y_pred, y_true)
        counts = self._target_counts(y_true)
        # Sample weights multiply the weights of targets, as in torch's own mean.
        if weight is not None:
            return _sum_of_counts(weight.reshape(-1), counts)
        if counts is not None:  # stays on the device: reading it here would synchronize
            # An exact count in int64; a sum of class weights has the dtype of the weights.
            return counts.count_nonzero() if counts.dtype is torch.bool else counts.sum()
        if self._counts_lengths:
            return len(y_true[-1])  # the label lengths, since labels may be concatenated
        if self._of_user and self._counted != "samples" and TargetCount.applies(y_true):
            return targets_in(y_true)
        return samples_in(y_pred if y_true is None else y_true, batch, targets=y_true is not None)

    def _target_counts(self, y_true: Any) -> Tensor | None:
        """Return the weight of each target in torch's own mean, None if all weigh the same.

        For class numbers, torch divides by the sum of these weights: 0 for ignored targets, and
        the class weight for the others.
        """
        if not self._over_classes or not isinstance(y_true, Tensor) or y_true.is_floating_point():
            return None
        # Ignored targets are not class numbers: they look up class 0, and count as 0.
        ignored, weight = class_options(self.loss_fn)  # read again: they belong to the user's loss
        counts: Tensor = y_true != ignored  # type: ignore[assignment]
        return counts if weight is None else weight[y_true.where(counts, 0).long()] * counts

    def _weighted(
        self, y_pred: Any, y_true: Any, weight: Tensor | None, batch: Any
    ) -> tuple[Tensor, Tensor]:
        """Return `sum(w * loss) / sum(w)` over the samples, and `sum(w)`.

        The weights multiply the divisor of torch's own mean too, so that weights of 1 change
        nothing.
        """
        losses = self._losses(y_pred, y_true)
        if losses.dim() == 0 and weight is None and self._of_user and not self.term.per_sample:
            # It has reduced its losses itself, whatever its attribute `reduction` says.
            return losses, torch.as_tensor(self._normalizer(y_pred, y_true, None, batch))
        if losses.dim() == 0 or (weight is not None and len(losses) != len(weight)):
            samples = "" if weight is None else f" for {len(weight)} sample weights"
            message = (
                f"{formula_of(self.loss_fn)} returned losses of shape "
                f"{tuple(losses.shape)}{samples}; expected one loss per sample along dimension 0"
            )
            raise ValueError(message)
        # A loss that does not reduce itself takes the same path, with weights of 1.
        weight = losses.new_ones(len(losses)) if weight is None else weight.reshape(-1)
        weight = weight.to(losses.dtype)
        counts = self._target_counts(y_true)
        sums_elements = counts is not None or self._reduction in ("sum", "batchmean")
        if losses.dim() > 1 and not sums_elements:
            # Each sample counts once, however many elements it has.
            losses = losses.flatten(1).mean(1)
        total = _sum_of_counts(weight, counts)
        weighted = (losses * _align_to_samples(weight, losses)).sum()
        if self.summed:
            return weighted, total
        # If all weights are 0, the loss is 0 instead of NaN.
        return weighted / total.clamp_min(torch.finfo(losses.dtype).tiny), total

    def _losses(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return a loss for each sample, of shape (N, ...)."""
        if is_builtin(self.loss_fn, nn.AdaptiveLogSoftmaxWithLoss):
            return -self.loss_fn(y_pred, y_true).output  # type: ignore[no-any-return]
        if self._unreduced is None:
            # The function is made at its first use: without weights no loss per sample is needed.
            self._unreduced = self._make_unreduced()
        losses: Any = self._unreduced(y_pred, y_true)
        if not isinstance(losses, Tensor):
            message = (
                f"{formula_of(self.loss_fn)} returned a {type(losses).__name__}; expected a tensor"
            )
            raise TypeError(message)
        if self._counts_lengths and not self.summed:
            return per_label(losses, y_true)
        return losses

    def _make_unreduced(self) -> Any:
        """Return a function that computes a loss per sample: `(y_pred, y_true) -> Tensor`."""
        if not self._reduces:
            return partial(self._call, self.loss_fn)
        if parameter_of(self.loss_fn, "reduction") is not None:
            return partial(self._call, partial(self.loss_fn, reduction="none"))
        if self._reduction is not None:
            return self._without_reduction
        message = (
            "sample_weight and class_weight need a loss per sample, which "
            f"{formula_of(self.loss_fn)} does not provide; support reduction='none', as losses of "
            "torch.nn do, or return a loss per sample, of shape (N,), and pass "
            "fitorch.losses.term(loss_fn, per_sample=True)"
        )
        raise TypeError(message)

    def _without_reduction(self, y_pred: Any, y_true: Any) -> Any:
        """Call the loss with `reduction="none"`.

        The loss itself is called, not a copy: callbacks and modes may have changed it.
        """
        # The change lasts for the call only; validation may use the same loss.
        self.loss_fn.reduction = "none"
        try:
            return self._call(self.loss_fn, y_pred, y_true)
        finally:
            self.loss_fn.reduction = self._reduction


def _sum_of_counts(weight: Tensor, counts: Tensor | None) -> Tensor:
    return weight.sum() if counts is None else (_align_to_samples(weight, counts) * counts).sum()


def _align_to_samples(weight: Tensor, values: Tensor) -> Tensor:
    """Return the sample weights in shape (N, 1, ...), which broadcasts with values (N, ...)."""
    return weight.reshape(-1, *[1] * (values.dim() - 1))
