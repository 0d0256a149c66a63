"""Penalties on the weights of a net: L1, L2, and the elastic net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.devices.accelerators import is_host
from fitorch.distributed.dtensor import full_tensor, local_tensor
from fitorch.internals.torch import (
    foreach_add,
    foreach_add_,
    foreach_mul,
    foreach_norm,
    foreach_sign,
)

from .compose import Composable
from .names import formula_of
from .selection import nothing_to_penalize, select_parameters

_EXACT_NORM_ELEMENTS = 2**14  # the largest float32 tensor whose norm the CPU sums accurately


class Penalty(Composable):
    """Base class of penalties: functions of a net's parameters that are added to an objective.

    Subclasses override `value`.

    Args:
        include: Which parameters to penalize, instead of all weights: a name, a pattern such as
            `"encoder.*"`, a list of them, or a predicate `(name, parameter) -> bool`. The name of a
            module stands for all parameters in it.
        exclude: Which of those to leave out, in the same form.
    """

    penalizes = True
    include: Any = None
    exclude: Any = None

    def __init__(self, include: Any = None, exclude: Any = None) -> None:
        self.include = include
        self.exclude = exclude

    def __call__(self, net: nn.Module) -> Tensor:
        """Return the penalty on a net, a scalar, for a hand-written loop.

        Raises:
            ValueError: The net has no parameter to penalize.
        """
        weights = self.choose(net)
        if not weights:
            raise ValueError(nothing_to_penalize(formula_of(self), net))
        # This is a collective if the weights are sharded.
        return self.value([full_tensor(weight) for weight in weights])

    def choose(self, net: nn.Module) -> list[nn.Parameter]:
        """Return the trainable parameters of `net` to penalize, each once."""
        return select_parameters(net, self.include, self.exclude)

    def value(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the penalty on these parameters, a scalar."""
        raise NotImplementedError

    def value_of_shards(self, weights: list[nn.Parameter]) -> Tensor:
        """Return the penalty on sharded parameters; a collective call, made by every rank."""
        # The weights are gathered, because a penalty need not be a sum over elements.
        return self.value([full_tensor(weight) for weight in weights])

    def add_gradients(self, weights: list[nn.Parameter], factor: float | Tensor) -> None:
        """Add the gradient of `factor` times the penalty to the `.grad` of the parameters.

        Args:
            weights: The parameters; each has a dense gradient.
            factor: The weight of the penalty, a number or a 0-dimensional tensor.
        """
        # The caller has disabled gradients, but this one is needed.
        with torch.enable_grad():
            value = self.value(weights)
        # Weights that the value does not depend on have a gradient of 0.
        gradients = torch.autograd.grad(value, weights, materialize_grads=True)
        _add_scaled([weight.grad for weight in weights], gradients, factor)

    def add_to_shards(self, weights: list[nn.Parameter], factor: float | Tensor) -> None:
        """Add the gradient on sharded parameters; a collective call, made by every rank."""
        with torch.enable_grad():
            value = self.value([full_tensor(weight) for weight in weights])
        gradients = torch.autograd.grad(value, weights, materialize_grads=True)
        _add_scaled(
            [local_tensor(weight.grad) for weight in weights],
            [local_tensor(gradient) for gradient in gradients],
            factor,
        )


class _NormPenalty(Penalty):
    """The penalty `l1 * sum(|w|) + l2 / 2 * sum(w**2)`.

    Forward and backward each take a few multi-tensor operations.
    """

    def __init__(self, l1: float, l2: float, include: Any, exclude: Any) -> None:
        super().__init__(include, exclude)
        for name, factor in (("l1", l1), ("l2", l2)):
            if not math.isfinite(factor):
                message = (
                    f"the factor of an {name.upper()} penalty is {factor!r}; expected a number"
                )
                raise ValueError(message)
        self.l1, self.l2 = float(l1), float(l2)

    def value(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the penalty on these parameters, a scalar."""
        if not torch.is_grad_enabled():  # in fit, where apply() would take most of the time
            return _NormPenaltyFunction.forward(self.l1, self.l2, *weights)
        value: Tensor = _NormPenaltyFunction.apply(self.l1, self.l2, *weights)  # type: ignore[no-untyped-call]
        return value

    def add_gradients(self, weights: list[nn.Parameter], factor: float | Tensor) -> None:
        """Add `factor * (l1 * sign(w) + l2 * w)` to the gradients, in place."""
        self._shrink(weights, [weight.grad for weight in weights], factor)

    def add_to_shards(self, weights: list[nn.Parameter], factor: float | Tensor) -> None:
        """Add the gradient to the shards of this rank, without communication."""
        gradients = [local_tensor(weight.grad) for weight in weights]
        self._shrink([local_tensor(weight) for weight in weights], gradients, factor)

    @torch.no_grad()
    def value_of_shards(self, weights: list[nn.Parameter]) -> Tensor:
        """Return the penalty on sharded parameters, as a sum over the shards of all ranks."""
        value = self.value([local_tensor(weight) for weight in weights])
        # Synchronizes the ranks: the penalty is a sum over elements, so partial sums add up.
        torch.distributed.all_reduce(value)
        return value

    def _shrink(
        self, weights: Sequence[Tensor], gradients: list[Any], factor: float | Tensor
    ) -> None:
        if self.l1:
            _add_scaled(gradients, _signs(weights), factor * self.l1)
        if self.l2:
            _add_scaled(gradients, weights, factor * self.l2)

    def _repr(self, *factors: str) -> str:
        selection = [
            f"{name}={formula_of(value)}"
            for name, value in (("include", self.include), ("exclude", self.exclude))
            if value is not None
        ]
        return f"{type(self).__name__}({', '.join([*factors, *selection])})"


class L1(_NormPenalty):
    """The sum of the weights' absolute values: `alpha * sum(|w|)`.

    Biases, normalization layers and frozen parameters are left out; shared parameters count once.

    Args:
        alpha: The factor; `1e-3 * L1()` is the same as `L1(1e-3)`.
        include: Which parameters to penalize, instead of all weights: a name, a pattern such as
            `"encoder.*"`, a list of them, or a predicate `(name, parameter) -> bool`. The name of a
            module stands for all parameters in it.
        exclude: Which of those to leave out, in the same form.

    Raises:
        ValueError: `alpha` is not finite.

    Example:
        >>> import torch
        >>> from fitorch.losses import L1
        >>> net = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(net.weight, -3.0)
        >>> L1(0.5)(net).item()  # 0.5 * (3 + 3)
        3.0
    """

    def __init__(self, alpha: float = 1.0, include: Any = None, exclude: Any = None) -> None:
        super().__init__(alpha, 0.0, include, exclude)

    def __repr__(self) -> str:
        return self._repr(*([] if self.l1 == 1 else [f"{self.l1:g}"]))


class L2(_NormPenalty):
    """Half the sum of the weights' squares: `0.5 * alpha * sum(w**2)`, whose gradient is `alpha*w`.

    With plain SGD, it is equivalent to `weight_decay=alpha`; Keras' L2 does not have the factor
    0.5. Biases, normalization layers and frozen parameters are left out; shared parameters count
    once.

    Args:
        alpha: The factor; `1e-3 * L2()` is the same as `L2(1e-3)`.
        include: Which parameters to penalize, as for `L1`.
        exclude: Which of those to leave out, as for `L1`.

    Raises:
        ValueError: `alpha` is not finite.

    Example:
        >>> import torch
        >>> from fitorch.losses import L2
        >>> net = torch.nn.Linear(4, 1)
        >>> _ = torch.nn.init.constant_(net.weight, -3.0)
        >>> L2(0.5)(net).item()  # 0.5 * 0.5 * (9 + 9 + 9 + 9)
        9.0
    """

    def __init__(self, alpha: float = 1.0, include: Any = None, exclude: Any = None) -> None:
        super().__init__(0.0, alpha, include, exclude)

    def __repr__(self) -> str:
        return self._repr(*([] if self.l2 == 1 else [f"{self.l2:g}"]))


class L1L2(_NormPenalty):
    """The elastic net penalty as one term: `l1 * sum(|w|) + 0.5 * l2 * sum(w**2)`.

    For a column for each part, use the sum of `L1` and `L2`.

    Args:
        l1: The factor of the absolute values.
        l2: The factor of the squares.
        include: Which parameters to penalize, as for `L1`.
        exclude: Which of those to leave out, as for `L1`.

    Raises:
        ValueError: A factor is not finite.

    Source: Zou and Hastie, 2005, Regularization and variable selection via the elastic net, eq. 3,
    except for the factor 0.5.
    """

    def __init__(
        self, l1: float = 1.0, l2: float = 1.0, include: Any = None, exclude: Any = None
    ) -> None:
        super().__init__(l1, l2, include, exclude)

    def __repr__(self) -> str:
        return self._repr(f"l1={self.l1:g}", f"l2={self.l2:g}")


class _NormPenaltyFunction(torch.autograd.Function):
    """The penalty and its gradient `l1 * sign(w) + l2 * w`, on a list of tensors at once."""

    @staticmethod
    def forward(l1: float, l2: float, *weights: Tensor) -> Tensor:
        wide, pieces = _wide_type(weights), _split_for_exact_norms(weights)
        terms = []
        if l1:
            terms.append(l1 * torch.stack(foreach_norm(pieces, 1, wide)).sum())
        # A penalty with both factors 0 still returns a tensor.
        if l2 or not l1:
            squares = torch.stack(foreach_norm(pieces, 2, wide)).square()
            terms.append(0.5 * l2 * squares.sum())
        return sum(terms[1:], start=terms[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.l1, ctx.l2, *weights = inputs
        ctx.save_for_backward(*weights)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        weights, (grad,) = ctx.saved_tensors, outputs
        if torch.is_grad_enabled():  # second derivatives, which _foreach operations lack
            return (None, None, *(ctx.l1 * grad * w.sgn() + ctx.l2 * grad * w for w in weights))
        gradients: tuple[Tensor, ...] = ()
        if ctx.l1:
            gradients = foreach_mul(_signs(weights), ctx.l1 * grad)
        if ctx.l2 or not ctx.l1:
            shrinkage = foreach_mul(weights, ctx.l2 * grad)
            gradients = foreach_add(gradients, shrinkage) if gradients else shrinkage
        return (None, None, *gradients)


def _add_scaled(gradients: list[Any], addends: Sequence[Tensor], factor: float | Tensor) -> None:
    """Add `factor * addends` to the gradients, in place."""
    # `alpha` takes numbers only; reading the tensor would wait for the device.
    if isinstance(factor, Tensor):
        foreach_add_(gradients, foreach_mul([*addends], factor))
    else:
        foreach_add_(gradients, [*addends], alpha=factor)


def _signs(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if any(weight.is_complex() for weight in weights):
        return tuple(weight.sgn() for weight in weights)
    return tuple(foreach_sign(tuple(weights)))


def _split_for_exact_norms(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return views of the weights that are small enough for an accurate norm.

    On the CPU, `_foreach_norm` adds the elements one after the other in float32: for 10 million
    elements, the result would be off by a hundredth.
    """
    return [
        piece
        for weight in weights
        for piece in (
            weight.flatten().split(_EXACT_NORM_ELEMENTS)
            if is_host(weight) and weight.numel() > _EXACT_NORM_ELEMENTS
            else (weight,)
        )
    ]


def _wide_type(weights: Sequence[Tensor]) -> torch.dtype | None:
    """Return the dtype to sum all weights in, at least float32; None for that of the weights."""
    dtypes = {weight.dtype for weight in weights}
    if len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64}:
        return None
    if any(dtype.is_complex for dtype in dtypes):
        return None
    return reduce(torch.promote_types, dtypes, torch.float32)
