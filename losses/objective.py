"""What training descends: an objective's terms made ready for a net, batch by batch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .check import check, check_targets
from .compose import Composition, terms_of
from .names import name_of
from .penalty_term import PenaltyTerm
from .prediction_kind import PredictionKind, prediction_kind_of
from .shape_checks import MisfitError
from .term import Term
from .terms import LossTerm, NetLoss, TermValue

if TYPE_CHECKING:
    from .term import Term


def names_of(terms: Iterable[Term], taken: Iterable[str] = ()) -> list[str]:
    """Return a name for each term that no other has.

    A loss of one output is called after the output. A name that a metric has gets `_loss` added;
    equal names are numbered: `l1`, `l1_2`.

    Args:
        terms: The terms.
        taken: The metrics' names.
    """
    terms, taken, names = list(terms), set(taken), list[str]()
    outputs = [term.output for term in terms]
    for term in terms:
        name = term.name or _default_name(term, alone=outputs.count(term.output) == 1)
        name = f"{name}_loss" if name in taken else name
        candidates = _numbered(name)
        names.append(next(c for c in candidates if c not in {*names, *taken, "loss"}))
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _default_name(term: Term, *, alone: bool) -> str:
    keys = [f"output_{key}" if isinstance(key, int) else str(key) for key in term.output]
    return "_".join(keys if keys and alone else [*keys, _short_name(term.fn)]).replace(".", "_")


def _short_name(fn: Any) -> str:
    """Return `focal` for a FocalLoss, `bce_with_logits` for a BCEWithLogitsLoss."""
    while isinstance(fn, partial):
        fn = fn.func
    if inspect.isroutine(fn):
        name = fn.__name__
    else:
        kind = type(fn).__name__.removesuffix("WithLoss").removesuffix("Loss")
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()
    return "custom" if name in ("<lambda>", "loss", "") else name


class Objective:
    """The losses and penalties of a batch, each with its share in the epoch's mean.

    The epoch's figure of a term is `sum(value * share) / sum(share)`. The share is the number of
    samples; with sample weights their sum; with class weights or ignored targets in a cross entropy
    the sum that torch's own mean divides by. So no figure depends on how samples are batched, and
    the figures of the terms add up to that of the objective.

    Args:
        loss_fn: A loss, a formula of losses and penalties, a mapping or a list of them for a net of
            several outputs, or a loss' name. None, or penalties alone, uses the `.loss` that the
            net's own output carries (Hugging Face).
        metrics: Names that the terms may not have.
    """

    def __init__(self, loss_fn: Any, metrics: Iterable[str] = ()) -> None:
        terms = [] if loss_fn is None else terms_of(loss_fn)
        if all(term.penalizes for term in terms):
            terms = [Term(NetLoss(), name="own"), *terms]
        self.module = Composition(terms)
        named = list(zip(terms, names_of(terms, metrics), strict=True))
        self.losses = [LossTerm(t, name) for t, name in named if not t.penalizes]
        self.penalties = [PenaltyTerm(t, name) for t, name in named if t.penalizes]
        self.begin_epoch(0)

    @property
    def names(self) -> list[str]:
        """The terms' names, losses first; none where the objective is a single loss."""
        terms = self._terms
        return [term.name for term in terms] if len(terms) > 1 else []

    @property
    def name(self) -> str:
        """What to call the objective in a message."""
        if len(self.module.terms) > 1:
            return " + ".join(self.names)
        loss_fn = self.losses[0].loss_fn
        if self.uses_net_loss:
            return repr(loss_fn)
        return name_of(loss_fn)

    @property
    def _terms(self) -> list[LossTerm | PenaltyTerm]:
        return [*self.losses, *self.penalties]

    @property
    def uses_net_loss(self) -> bool:
        """Whether the net's own output carries the loss."""
        return any(isinstance(term.loss_fn, NetLoss) for term in self.losses)

    @property
    def by_output(self) -> bool:
        """Whether losses compare single outputs of the net."""
        return any(term.term.output for term in self.losses)

    def prediction_kind(self, output: tuple[Any, ...] = ()) -> PredictionKind:
        """Tell what the predictions of an output are, as far as its losses know.

        Args:
            output: The keys that lead to the output; () is all that the net gives.

        Returns:
            "probabilities", "logits", "class_logits" (of classes along dimension 1), or None.
        """
        for term in self.losses:
            if term.term.output == output and (scale := prediction_kind_of(term.loss_fn)):
                return scale
        return None

    @property
    def summed(self) -> list[bool]:
        """Whether each loss of a batch is a sum over its samples instead of their mean."""
        return [term.summed for term in self.losses]

    @property
    def weights(self) -> dict[str, float]:
        """The weights of this epoch that change from epoch to epoch, by their columns' names."""
        terms = self._terms
        return {f"{term.name}_weight": term.weight for term in terms if term.term.schedules}

    def named_parameters(self, net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the losses' own parameters with their names, without those of `net`.

        Of several terms, their names come first: `center.weight`.
        """
        seen = {id(parameter) for parameter in net.parameters()}
        for term in self._terms:
            module = term.term.fn
            named = module.named_parameters() if isinstance(module, nn.Module) else ()
            for name, parameter in named:
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{term.name}.{name}" if self.names else name), parameter

    def to(self, device: torch.device) -> None:
        """Move the losses' parameters and buffers (class weights, say) to `device`."""
        self.module.to(device)

    def bind(self, net: nn.Module, *, strictly: bool = False) -> None:
        """Choose what penalties penalize; what was chosen in another net is forgotten.

        Raises:
            ValueError: A penalty has nothing to penalize, and that is not allowed.
        """
        for penalty in self.penalties:
            penalty.bind(net, strictly=strictly)

    def begin_epoch(self, epoch: int) -> None:
        """Set the weights of an epoch, counted from 0.

        Raises:
            ValueError: A weight's schedule gave something else than a finite number.
        """
        for term in self._terms:
            term.begin_epoch(epoch)

    def keep_weights_in_tensors(self) -> None:
        """Keep weights that change from epoch to epoch in tensors."""
        for term in self._terms:
            term.keep_weights_in_tensors()

    def __call__(self, y_pred: Any, y_true: Any, weight: Any) -> list[TermValue]:
        """Return what each term adds to a batch's loss, and its share; losses before penalties.

        Args:
            y_pred: The net's output.
            y_true: The targets.
            weight: A weight for each sample, of shape (N,) or (N, 1), or None.
        """
        parts = self.compare(y_pred, y_true, weight)
        return [*parts, *self.penalize(parts)]

    def compare(self, y_pred: Any, y_true: Any, weight: Any) -> list[TermValue]:
        """Return the same for the losses alone, which is all that depends on the batch."""
        return [loss(y_pred, y_true, weight) for loss in self.losses]

    def penalize(self, parts: list[TermValue]) -> list[TermValue]:
        """Return what each penalty adds, beside the parts of the losses; the first one's share."""
        return [(penalty(), parts[0][1]) for penalty in self.penalties]

    def total(self, parts: list[TermValue], divisors: list[Any] | None = None) -> Tensor:
        """Return the sum of the terms, a scalar.

        Args:
            parts: What `compare` returned, or a call.
            divisors: What to divide the mean of each loss by, where several batches make an update.
        """
        if divisors is None and len(parts) == 1:  # the most frequent case, in every step
            return parts[0][0]
        values = [value for value, _ in parts]
        if divisors is not None:
            summed = self.summed
            divided = zip(values, divisors, summed, strict=True)
            values = [v if s else v / _cast_like(d, v) for v, d, s in divided]
        return sum(values[1:], start=values[0])

    def normalizers(self, y_pred: Any, y_true: Any, weight: Any = None) -> list[int | Tensor]:
        """Return how much a batch counts in the epoch's mean of each loss.

        Args:
            y_pred: The net's output; asked only where there are no targets.
            y_true: The targets.
            weight: A weight for each sample, or None.
        """
        return [loss.normalizer(y_pred, y_true, weight) for loss in self.losses]

    def check(self, y_pred: Any, y_true: Any) -> None:
        """Refuse predictions and targets that do not fit the losses.

        Raises:
            MisfitError: It says what was got, what was expected and the way out.
        """
        for loss in self.losses:
            output, targets, _ = loss.select(y_pred, y_true)
            if loss.term.output and targets is None:
                key = loss.term.output[-1]
                message = f"output {key!r} has a loss, but its targets are None; leave the loss out"
                raise MisfitError(message)
            check(loss.loss_fn, output, targets)

    def check_targets(self, y_pred: Any, y_true: Any) -> None:
        """Refuse class numbers, anywhere in the targets of all batches, that the net has not.

        Raises:
            MisfitError: It names the number and how many classes there are.
        """
        for loss in self.losses:
            output, targets, _ = loss.select(y_pred, y_true)
            check_targets(loss.loss_fn, output, targets)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the losses' own parameters and buffers."""
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back.

        Raises:
            RuntimeError: Names or shapes differ.
        """
        self.module.load_state_dict(state)


def _cast_like(divisor: Any, value: Tensor) -> Any:
    """Return a divisor in the type of what it divides, so that the result keeps that type."""
    return divisor.to(value.dtype) if isinstance(divisor, Tensor) else divisor
