"""Arithmetic of losses and penalties: `FocalLoss() + 1e-3 * L2()` is a sum of weighted terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from torch import Tensor, nn

from .registry import get
from .term import Term, as_number, describe_weight
from .terms import LossTerm


class Composable:
    """Mixin for the arithmetic of losses: `a + b`, `a - b`, `0.1 * a`, `a / 2`, `sum()`.

    One operand must be a `Composable`; the other may be a loss of torch.nn, a function, or a name.
    Weights are numbers, or functions of the epoch (counted from 0) that return one.
    """

    __array_ufunc__ = None  # so that NumPy scalars return NotImplemented and `__rmul__` runs
    penalizes = False  # whether it takes the net instead of predictions

    def __add__(self, other: Any) -> Composition:
        return Composition([*terms_of(self), *terms_of(other)])

    def __radd__(self, other: Any) -> Any:
        # `sum` starts with 0, which adds no term.
        if isinstance(other, int) and other == 0:  # the start value of sum([...])
            return self
        return Composition([*terms_of(other), *terms_of(self)])

    def __sub__(self, other: Any) -> Composition:
        return Composition([*terms_of(self), *(term.times(-1.0) for term in terms_of(other))])

    def __rsub__(self, other: Any) -> Composition:
        return Composition([*terms_of(other), *(term.times(-1.0) for term in terms_of(self))])

    def __mul__(self, weight: Any) -> Composition:
        # Each term has its own weight, so that each has its own column.
        return Composition([term.times(weight) for term in terms_of(self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Composition:
        number = as_number(divisor)
        if not number:
            message = (
                f"can't divide a loss by {describe_weight(divisor)}; expected a number other than 0"
            )
            raise ValueError(message) if number == 0 else TypeError(message)
        return self * (1.0 / number)

    def __neg__(self) -> Composition:
        return self * -1.0

    def named(self, name: str) -> Composition:
        """Return the same term with a name for its columns: `train_<name>`, `val_<name>`.

        Args:
            name: The name.

        Raises:
            ValueError: The formula has several terms, or the name cannot be a column's.
        """
        terms = terms_of(self)
        if len(terms) > 1:
            message = (
                f"named() names one term, but {self!r} has {len(terms)}; name each of them before "
                "adding them up"
            )
            raise ValueError(message)
        return Composition([replace(terms[0], name=_checked_name(name))])


class Composition(Composable, nn.Module):
    """A sum of weighted terms; nested sums are flattened.

    A composition holds no state of a fit, so that several models can use the same one. As a module,
    it registers the losses that are modules, so that their parameters are found and moved.

    Args:
        terms: The losses and penalties with their weights.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        # Only modules are registered: functions have no parameters to find, move or save.
        self.losses = nn.ModuleList(t.fn for t in self.terms if isinstance(t.fn, nn.Module))

    def forward(
        self, y_pred: Any, y_true: Any = None, net: nn.Module | None = None, epoch: int = 0
    ) -> Tensor:
        """Return the value of the formula, a scalar, for a hand-written loop.

        Args:
            y_pred: The net's output; a formula of penalties alone takes the net in its place.
            y_true: The targets.
            net: The net whose parameters the penalties penalize.
            epoch: The epoch, from 0, for weights that are schedules.

        Raises:
            TypeError: The formula has penalties, but `net` is None.
            ValueError: A penalty does not match any parameter.
        """
        penalties = [term for term in self.terms if term.penalizes]
        if net is None and isinstance(y_pred, nn.Module) and len(penalties) == len(self.terms):
            net = y_pred
        if penalties and net is None:
            message = f"{self!r} penalizes a net; pass it: loss_fn(y_pred, y_true, net)"
            raise TypeError(message)
        # The copies have the weights of this epoch; the terms themselves do not change.
        terms = [replace(term, factor=term.weight(epoch)) for term in self.terms]
        values = [
            term.factor * term.fn(net)
            if term.penalizes
            else LossTerm(term, "")(y_pred, y_true, None)[0]
            for term in terms
        ]
        return sum(values[1:], start=values[0])

    def __repr__(self) -> str:
        text = ""
        for term in self.terms:
            if text:
                text += f" {'-' if term.factor < 0 else '+'} {term}"
            else:
                text = f"{'-' if term.factor < 0 else ''}{term}"
        return text


def term(loss: Any, name: str | None = None, *, per_sample: bool = False) -> Composition:
    """Turn any loss into a term, which supports arithmetic.

    Args:
        loss: A loss of torch.nn, a function `(y_pred, y_true)`, a name, or a loss of fitorch.
        name: The name of its columns; None derives one from the loss.
        per_sample: Whether the function returns a loss per sample, of shape (N, ...). Such losses
            are averaged with sample and class weights, if there are any.

    Raises:
        TypeError: `loss` is not a loss.
        ValueError: `loss` is an unknown name.

    Example:
        >>> from torch import nn
        >>> from fitorch.losses import L2, term
        >>> 0.3 * term(nn.CrossEntropyLoss(), name="ce") + 1e-3 * L2()
        0.3 * CrossEntropyLoss().named('ce') + 0.001 * L2()
    """
    terms = [replace(t, per_sample=per_sample or t.per_sample) for t in terms_of(loss)]
    composition = Composition(terms)
    return composition if name is None else composition.named(name)


def terms_of(spec: Any) -> list[Term]:
    """Return the terms of a loss, a penalty, a formula, a name, or a collection of these.

    Mappings and sequences hold a loss per output of the net; None marks an output without a loss.

    Args:
        spec: The loss specification.

    Raises:
        TypeError: `spec` is none of these.
        ValueError: `spec` is an unknown name, or contains no loss.
    """
    # Nested formulas become one flat sum.
    if isinstance(spec, Composition):
        return list(spec.terms)
    if isinstance(spec, (Mapping, list, tuple)):
        return _terms_by_output(spec)
    if isinstance(spec, Composable) and spec.penalizes:
        return [Term(spec)]
    if isinstance(spec, (Real, Tensor)):
        message = (
            f"can't add {describe_weight(spec)} to a loss; multiply by weights, and add losses"
        )
        raise TypeError(message)
    return [Term(get(spec))]


def _terms_by_output(spec: Any) -> list[Term]:
    items = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    terms = [
        # Penalties look at the net, whatever output they are listed under.
        loss_term if loss_term.penalizes else replace(loss_term, output=(key, *loss_term.output))
        for key, loss in items
        if loss is not None
        for loss_term in terms_of(loss)
    ]
    if not terms:
        message = f"loss_fn is {spec!r}, without a loss; pass a loss for at least one output"
        raise ValueError(message)
    return terms


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name or "." in name or name == "loss":
        message = (
            f"a term can't be called {name!r}; expected a name such as 'focal' ('loss' is the "
            "whole objective)"
        )
        raise ValueError(message)
    return name
