"""Penalty terms of an objective, bound to the parameters of a net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fitorch.devices.accelerators import HOST
from fitorch.distributed.dtensor import is_split

from .names import formula_of
from .penalties import Penalty
from .selection import nothing_to_penalize
from .term import Term
from .weighted import WeightedTerm


class PenaltyTerm(WeightedTerm):
    """A penalty of an objective, with the parameters that it is bound to.

    Args:
        term: The penalty and its weight.
        name: The name of its columns.
    """

    def __init__(self, term: Term, name: str) -> None:
        super().__init__(term, name)
        self.penalty: Penalty = term.fn
        self._parameters: list[nn.Parameter] = []
        self._split = False  # whether the parameters are sharded

    def bind(self, net: nn.Module, *, strictly: bool = False) -> None:
        """Select the parameters of `net` to penalize.

        Args:
            net: The net.
            strictly: Whether the penalty must match at least one parameter.

        Raises:
            ValueError: The penalty does not match any parameter, and `strictly` is True.
        """
        # The parameters are chosen once per epoch: matching names takes longer than the penalty.
        self._parameters = self.penalty.choose(net)
        self._split = any(map(is_split, self._parameters))
        if strictly and not self._parameters:
            raise ValueError(nothing_to_penalize(formula_of(self.penalty), net))

    def __call__(self) -> Tensor:
        """Return the weighted penalty; 0 if there are no parameters to penalize."""
        if not self._parameters:
            return torch.zeros((), device=HOST)
        value = self.penalty.value_of_shards if self._split else self.penalty.value
        return self.weigh(value(self._parameters))

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the penalty's gradient to `.grad`; this is cheaper than a backward pass through it.

        Parameters that were frozen since `bind` are left out.
        """
        # A frozen parameter must not get a gradient, which the optimizer would use.
        trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                # The batch did not reach this parameter, but its penalty counts.
                parameter.grad = torch.zeros_like(parameter)
            elif parameter.grad.is_sparse:
                # A dense gradient cannot be added to a sparse one in place.
                parameter.grad = parameter.grad.to_dense()
        if trained:
            add = self.penalty.add_to_shards if self._split else self.penalty.add_gradients
            add(trained, self.factor)
