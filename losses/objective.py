"""Objectives: the terms of a loss, bound to a net and evaluated batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import isfunction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch.devices.modules import move_module

from .check import check, check_targets
from .class_targets import are_classes_last, ignored_class_of
from .column_names import names_of
from .compose import Composition, terms_of
from .names import loss_name
from .net_loss import NetLoss
from .penalty_term import PenaltyTerm
from .prediction_kind import PredictionKind, prediction_kind_of
from .shape_checks import MisfitError
from .term import Term
from .terms import LossTerm, TermValue

if TYPE_CHECKING:
    from .term import Term


class Objective:
    """The losses and penalties of a batch, each with its normalizer for the epoch's mean.

    The value of a term over an epoch is `sum(value * normalizer) / sum(normalizer)`. The normalizer
    of a batch is its number of samples; with sample weights, their sum; for a cross entropy with
    class weights or ignored targets, the sum that torch's own mean divides by. Therefore the epoch
    values do not depend on how samples are batched, and those of the terms add up to that of the
    objective.

    Args:
        loss_fn: A loss, a formula of losses and penalties, a mapping or a list of them for a net of
            several outputs, or the name of a loss. If it is None, or penalties alone, the loss is
            the `.loss` of the net's output (Hugging Face).
        metrics: The names of the metrics, which the terms must not have.
    """

    def __init__(self, loss_fn: Any, metrics: Iterable[str] = ()) -> None:
        terms = [] if loss_fn is None else terms_of(loss_fn)
        # With penalties alone, the net computes its loss itself.
        if all(term.penalizes for term in terms):
            terms = [Term(NetLoss(), name="own"), *terms]
        self.module = Composition(terms)
        named = list(zip(terms, names_of(terms, metrics), strict=True))
        self.losses = [LossTerm(t, name) for t, name in named if not t.penalizes]
        self.penalties = [PenaltyTerm(t, name) for t, name in named if t.penalizes]
        # Weights that are schedules have a value before the first epoch.
        self.begin_epoch(0)

    @property
    def names(self) -> list[str]:
        """The names of the terms, losses first; empty if the objective is a single loss."""
        terms = self._terms
        return [term.name for term in terms] if len(terms) > 1 else []

    @property
    def name(self) -> str:
        """The name of the objective for messages."""
        if len(self.module.terms) > 1:
            return " + ".join(self.names)
        loss_fn = self.losses[0].loss_fn
        if self.uses_net_loss:
            return repr(loss_fn)
        return loss_name(loss_fn)

    @property
    def _terms(self) -> list[LossTerm | PenaltyTerm]:
        return [*self.losses, *self.penalties]

    @property
    def uses_net_loss(self) -> bool:
        """Whether the loss is the `.loss` of the net's output."""
        return any(isinstance(term.loss_fn, NetLoss) for term in self.losses)

    @property
    def is_known(self) -> bool:
        """Whether all losses are those of torch and fitorch, without code of the user's."""
        kinds = [t.loss_fn if isfunction(t.loss_fn) else type(t.loss_fn) for t in self.losses]
        modules = [str(kind.__module__) for kind in kinds]
        known = all(module.startswith(("torch.nn.", "fitorch.losses.")) for module in modules)
        return known and not self.uses_net_loss

    @property
    def counts_before(self) -> bool:
        """Whether the targets alone show what a batch counts, before the forward pass."""
        return all(term.counts_before for term in self.losses)

    @property
    def answers(self) -> list[list[Any]]:
        """What the first batch has shown about each loss of the user's."""
        return [term.answer for term in self.losses]

    def restore_answers(self, answers: list[list[Any]]) -> None:
        """Restore what an earlier batch has shown, in an epoch that is resumed."""
        for term, answer in zip(self.losses, answers, strict=True):
            term.restore_answer(answer)

    @property
    def by_output(self) -> bool:
        """Whether losses are bound to single outputs of the net."""
        return any(term.term.output for term in self.losses)

    def prediction_kind(self, output: tuple[Any, ...] = ()) -> PredictionKind:
        """Return which kind of predictions the losses of an output expect.

        Args:
            output: The keys that lead to the output; () is the whole output of the net.

        Returns:
            "probabilities", "logits", "class_logits" (of classes along dimension 1), or None.
        """
        for term in self.losses:
            if term.term.output == output and (kind := prediction_kind_of(term.loss_fn)):
                return kind
        return None

    def ignored_class(self, output: tuple[Any, ...] = ()) -> int | None:
        """Return the class number of targets that the losses of an output leave out.

        Args:
            output: The keys that lead to the output; () is the whole output of the net.

        Returns:
            The class number; None if all targets count.
        """
        indices = (ignored_class_of(term.loss_fn) for term in self._losses_of(output))
        return next((index for index in indices if index is not None), None)

    def classes_last(self, output: tuple[Any, ...], y_pred: Tensor, y_true: Tensor) -> bool | None:
        """Return whether the last dimension of predictions (N, T, T) has the classes.

        Args:
            output: The keys that lead to the output.
            y_pred: Predictions of any batch.
            y_true: Targets (N, T) of the same batch.

        Returns:
            True for the loss of the net, as of Hugging Face, and False for those of torch.nn. For
            functions, the shape in which they call a cross entropy decides; None if they do not.
        """
        answers = (are_classes_last(t.loss_fn, y_pred, y_true) for t in self._losses_of(output))
        return next((answer for answer in answers if answer is not None), None)

    def shifted(self, output: tuple[Any, ...] = ()) -> bool:
        """Return whether the net's own loss is that of a causal language model.

        It then compares each target (N, T) with the logits of the token before; known once a batch
        has been measured.

        Args:
            output: The keys that lead to the output.
        """
        return any(term.shifted for term in self._losses_of(output))

    def _losses_of(self, output: tuple[Any, ...]) -> list[LossTerm]:
        """Return the losses of an output, or else those that get it as a part of what they get."""
        exact = [term for term in self.losses if term.term.output == output]
        return exact or [t for t in self.losses if t.term.output == output[: len(t.term.output)]]

    @property
    def summed(self) -> list[bool]:
        """For each loss, whether its batch value is a sum over the samples instead of a mean."""
        return [term.summed for term in self.losses]

    @property
    def weights(self) -> dict[str, float]:
        """The scheduled weights of this epoch, by column name."""
        terms = self._terms
        return {f"{term.name}_weight": term.weight for term in terms if term.term.schedules}

    def named_parameters(self, net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and parameters of the losses, without those of `net`.

        If the objective has several terms, their names are prefixes: `center.weight`.
        """
        # A loss may contain the net, or parts of it.
        seen = {id(parameter) for parameter in net.parameters()}
        for term in self._terms:
            module = term.term.fn
            named = module.named_parameters() if isinstance(module, nn.Module) else ()
            for name, parameter in named:
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{term.name}.{name}" if self.names else name), parameter

    def to(self, device: torch.device) -> None:
        """Move the losses' parameters and buffers, such as class weights, to `device`."""
        move_module(self.module, device)

    def bind(self, net: nn.Module, *, strictly: bool = False) -> None:
        """Select the parameters of `net` that the penalties penalize, instead of earlier ones.

        Args:
            net: The net.
            strictly: Whether a penalty must match at least one parameter.

        Raises:
            ValueError: A penalty does not match any parameter, and `strictly` is True.
        """
        for penalty in self.penalties:
            penalty.bind(net, strictly=strictly)

    def begin_epoch(self, epoch: int) -> None:
        """Set the scheduled weights for an epoch, counted from 0.

        Raises:
            ValueError: A schedule did not return a finite number.
        """
        for term in self._terms:
            term.begin_epoch(epoch)

    def keep_weights_in_tensors(self) -> None:
        """Keep scheduled weights in tensors, so that compiled code can see them change."""
        for term in self._terms:
            term.keep_weights_in_tensors()

    def __call__(self, y_pred: Any, y_true: Any, weight: Any, batch: Any = None) -> list[TermValue]:
        """Return the weighted value and the normalizer of each term, losses before penalties.

        Args:
            y_pred: The net's output.
            y_true: The targets.
            weight: A weight for each sample, of shape (N,) or (N, 1), or None.
            batch: The whole batch, which decides how many samples there are without targets.
        """
        # Penalties come last, in the order of the columns.
        parts = self.compare(y_pred, y_true, weight, batch)
        return [*parts, *self.penalize(parts)]

    def compare(self, y_pred: Any, y_true: Any, weight: Any, batch: Any = None) -> list[TermValue]:
        """Return the values of the losses alone, which are the terms that depend on the batch."""
        return [loss(y_pred, y_true, weight, batch) for loss in self.losses]

    def penalize(self, parts: list[TermValue]) -> list[TermValue]:
        """Return the value of each penalty, with the normalizer of the first loss.

        Args:
            parts: What `compare` returned.
        """
        # The penalties share the normalizer of the first loss, so that their values over an epoch
        # are means over the same samples.
        return [(penalty(), parts[0][1]) for penalty in self.penalties]

    def total(self, parts: list[TermValue], divisors: list[Any] | None = None) -> Tensor:
        """Return the sum of the terms, a scalar.

        Args:
            parts: What `compare` or a call of the objective returned.
            divisors: For each loss, the divisor of its mean, if several batches make an update.
        """
        if divisors is None and len(parts) == 1:  # a fast path for every step of a single loss
            return parts[0][0]
        values = [value for value, _ in parts]
        if divisors is not None:
            # Sums over samples add up across batches as they are; only means are divided.
            summed = self.summed
            divided = zip(values, divisors, summed, strict=True)
            values = [v if s else v / _cast_like(d, v) for v, d, s in divided]
        # The order is that of the formula, so that the bits are those of a hand-written sum.
        return sum(values[1:], start=values[0])

    def normalizers(self, y_pred: Any, y_true: Any, weight: Any = None) -> list[int | Tensor]:
        """Return the normalizer of a batch for each loss: its weight in the epoch's mean.

        Args:
            y_pred: The net's output; used only if the targets are None.
            y_true: The targets.
            weight: A weight for each sample, or None.
        """
        return [loss.normalizer(y_pred, y_true, weight) for loss in self.losses]

    def check(self, y_pred: Any, y_true: Any) -> None:
        """Check that predictions and targets fit the losses.

        Raises:
            MisfitError: They do not fit.
        """
        for loss in self.losses:
            output, targets, _ = loss.select(y_pred, y_true)
            if loss.term.output and targets is None:
                key = loss.term.output[-1]
                message = f"output {key!r} has a loss, but its targets are None; remove the loss"
                raise MisfitError(message)
            check(loss.loss_fn, output, targets)
            loss.settle(output, targets)

    def check_targets(self, y_pred: Any, y_true: Any) -> None:
        """Check that all class numbers in the targets are below the net's number of classes.

        Args:
            y_pred: The net's output for any batch.
            y_true: Targets of any number of batches.

        Raises:
            MisfitError: A class number is out of range.
        """
        for loss in self.losses:
            output, targets, _ = loss.select(y_pred, y_true)
            check_targets(loss.loss_fn, output, targets)

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters and buffers of the losses."""
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the parameters and buffers of the losses.

        Raises:
            RuntimeError: Names or shapes differ.
        """
        self.module.load_state_dict(state)


def _cast_like(divisor: Any, value: Tensor) -> Any:
    """Return the divisor in the dtype of the value, so that the quotient keeps that dtype."""
    return divisor.to(value.dtype) if isinstance(divisor, Tensor) else divisor
