"""Objectives as formulas: `FocalLoss() + 1e-3 * L2()` is a sum of named, weighted terms."""

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
    """Gives losses and penalties their arithmetic: `a + b`, `a - b`, `0.1 * a`, `a / 2`, `sum()`.

    One operand has to be ours; the other may be a loss of torch.nn, a function, or a name. Weights
    are numbers, or functions of the epoch (counted from 0) that return one.
    """

    __array_ufunc__ = None  # NumPy's numbers leave the multiplication to us
    penalizes = False  # whether it looks at a net instead of its predictions

    def __add__(self, other: Any) -> Composition:
        return Composition([*terms_of(self), *terms_of(other)])

    def __radd__(self, other: Any) -> Any:
        if isinstance(other, int) and other == 0:  # what sum([...]) begins with
            return self
        return Composition([*terms_of(other), *terms_of(self)])

    def __sub__(self, other: Any) -> Composition:
        return Composition([*terms_of(self), *(term.times(-1.0) for term in terms_of(other))])

    def __rsub__(self, other: Any) -> Composition:
        return Composition([*terms_of(other), *(term.times(-1.0) for term in terms_of(self))])

    def __mul__(self, weight: Any) -> Composition:
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
        """Return the same with a name of your own for its columns: `train_<name>`, `val_<name>`.

        Raises:
            ValueError: It has several terms, or the name can't be a column's.
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
    """A sum of terms; nested sums are one.

    It holds no state of a fit: the same composition serves any number of models. As a module it
    gives the losses' own parameters, and moves them.

    Args:
        terms: The losses and penalties with their weights.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.losses = nn.ModuleList(t.fn for t in self.terms if isinstance(t.fn, nn.Module))

    def forward(
        self, y_pred: Any, y_true: Any = None, net: nn.Module | None = None, epoch: int = 0
    ) -> Tensor:
        """Return the value of the formula, a scalar, for a loop of your own.

        Args:
            y_pred: The net's output; penalties alone take the net in its place.
            y_true: The targets.
            net: What penalties penalize.
            epoch: The epoch, from 0, for weights that are schedules.

        Raises:
            TypeError: There are penalties, but no net.
            ValueError: A penalty has no parameter to penalize.
        """
        penalties = [term for term in self.terms if term.penalizes]
        if net is None and isinstance(y_pred, nn.Module) and len(penalties) == len(self.terms):
            net = y_pred
        if penalties and net is None:
            message = f"{self!r} penalizes a net; pass it: loss_fn(y_pred, y_true, net)"
            raise TypeError(message)
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
    """Turn any loss into something that takes part in arithmetic.

    Args:
        loss: A loss of torch.nn, a function `(y_pred, y_true)`, a name, or something of ours.
        name: The name of its columns; None takes one from the loss.
        per_sample: The function returns a loss per sample, of shape (N, ...), which is averaged
            for you, with sample and class weights where there are any.

    Raises:
        TypeError: `loss` is no loss.
        ValueError: `loss` is an unknown name.

    Example:
        >>> from torch import nn
        >>> from fitorch.losses import L2, term
        >>> 0.3 * term(nn.CrossEntropyLoss(), name="ce") + 1e-3 * L2()
        0.3 * CrossEntropyLoss().named('ce') + 0.001 * L2()
    """
    terms = [replace(t, per_sample=per_sample or t.per_sample) for t in terms_of(loss)]
    made = Composition(terms)
    return made if name is None else made.named(name)


def terms_of(spec: Any) -> list[Term]:
    """Return the terms of anything that can stand in a formula.

    Mappings and sequences hold a loss per output of the net; None there is an output without one.

    Raises:
        TypeError: It can't stand there.
        ValueError: It is an unknown name, or holds no loss.
    """
    if isinstance(spec, Composition):
        return list(spec.terms)
    if isinstance(spec, (Mapping, list, tuple)):
        return _terms_by_output(spec)
    if isinstance(spec, Composable) and spec.penalizes:
        return [Term(spec)]
    if isinstance(spec, (Real, Tensor)):
        message = f"can't add {describe_weight(spec)} to a loss; multiply by a weight, add losses"
        raise TypeError(message)
    return [Term(get(spec))]


def _terms_by_output(spec: Any) -> list[Term]:
    items = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    terms = [
        found if found.penalizes else replace(found, output=(key, *found.output))
        for key, loss in items
        if loss is not None
        for found in terms_of(loss)
    ]
    if not terms:
        message = f"loss_fn is {spec!r}, without a loss; give one of the outputs a loss"
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
