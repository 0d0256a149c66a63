"""Terms of a formula: a loss or a penalty with its name, weight and output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .names import formula_of

Schedule = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Term:
    """A loss or a penalty with its name, weight and output.

    Args:
        fn: A loss `(y_pred, y_true) -> scalar`, or a `Penalty`.
        name: The name that the user chose, or None.
        factor: The constant part of the weight.
        schedules: Functions of the epoch (counted from 0) whose values multiply the weight.
        output: The keys that lead to the net's output, and to its targets.
        per_sample: Whether `fn` returns a loss for each sample.
    """

    fn: Any
    name: str | None = None
    factor: float = 1.0
    schedules: tuple[Schedule, ...] = ()
    output: tuple[Any, ...] = ()
    per_sample: bool = False

    @property
    def penalizes(self) -> bool:
        """Whether the term is a penalty on the net instead of a loss."""
        # `is True` excludes objects with another attribute of that name.
        return getattr(self.fn, "penalizes", False) is True

    def times(self, weight: Any) -> Term:
        """Return the term with its weight multiplied.

        Raises:
            TypeError: `weight` is neither a number nor a function.
            ValueError: `weight` is not finite.
        """
        number = as_number(weight)
        if number is not None:
            if not math.isfinite(number):
                message = (
                    f"the weight of {formula_of(self.fn)} is {number}; expected a finite number"
                )
                raise ValueError(message)
            return replace(self, factor=self.factor * number)
        if (
            callable(weight)
            and not hasattr(weight, "penalizes")
            # A loss is callable too, but a product of two losses has no meaning here.
            and not isinstance(weight, (nn.Module, Tensor, type))
        ):
            return replace(self, schedules=(*self.schedules, weight))
        message = (
            f"the weight of {formula_of(self.fn)} is {describe_weight(weight)}; expected a number, "
            "or a function of the epoch (from 0) that returns one"
        )
        raise TypeError(message)

    def weight(self, epoch: int) -> float:
        """Return the weight in an epoch, counted from 0.

        Raises:
            ValueError: A schedule did not return a finite number.
        """
        weight = self.factor
        for schedule in self.schedules:
            value = schedule(epoch)
            number = as_number(value)
            if number is None or not math.isfinite(number):
                message = (
                    f"the weight of {formula_of(self.fn)} in epoch {epoch}, from "
                    f"{formula_of(schedule)}, is {value!r}; expected a finite number"
                )
                raise ValueError(message)
            weight *= number
        return weight

    def __str__(self) -> str:
        weights = [] if abs(self.factor) == 1 else [f"{abs(self.factor):g}"]
        weights += [formula_of(schedule) for schedule in self.schedules]
        name = "" if self.name is None else f".named({self.name!r})"
        output = "".join(f"[{key!r}]" for key in self.output)
        return " * ".join([*weights, f"{formula_of(self.fn)}{name}{output and f' on {output}'}"])


def as_number(value: Any) -> float | None:
    """Return a weight as a float; None if it is not a constant real number."""
    if isinstance(value, Tensor):
        # A weight that learns would be frozen by the conversion.
        constant = value.numel() == 1 and not value.requires_grad and not value.is_complex()
        # For a tensor on a device this waits, once.
        return float(value) if constant else None
    return float(value) if isinstance(value, Real) else None


def describe_weight(value: Any) -> str:
    """Return a description of an invalid weight, for messages."""
    if isinstance(value, Tensor) and value.requires_grad:
        return "a tensor that requires a gradient (a weight to learn belongs in a loss module)"
    if isinstance(value, (int, float, torch.Tensor)):
        return f"{value!r}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
