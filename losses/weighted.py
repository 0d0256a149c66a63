"""Weighted terms: a term of an objective with a weight that may change from epoch to epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST

from .term import Term


class WeightedTerm:
    """A term of an objective with its weight.

    Args:
        term: The term and its weight.
        name: The name of its columns.
    """

    def __init__(self, term: Term, name: str) -> None:
        self.term = term
        self.name = name
        self.weight = term.factor
        self._weight_tensor: Tensor | None = None

    @property
    def factor(self) -> float | Tensor:
        """The weight; a tensor if it changes without a recompilation."""
        return self.weight if self._weight_tensor is None else self._weight_tensor

    def begin_epoch(self, epoch: int) -> None:
        """Set the weight for an epoch, counted from 0.

        Raises:
            ValueError: The weight's schedule did not return a finite number.
        """
        if self.term.schedules:
            self.weight = self.term.weight(epoch)
            if self._weight_tensor is not None:
                # The tensor is filled in place, because compiled code holds it.
                self._weight_tensor.fill_(self.weight)

    def keep_weights_in_tensors(self) -> None:
        """Keep a scheduled weight in a tensor: compiled code has Python numbers built in."""
        if self.term.schedules and self._weight_tensor is None:
            # A Python number has 64 bits too; a tensor without dimensions keeps the dtype of what
            # it multiplies.
            self._weight_tensor = torch.tensor(self.weight, dtype=torch.float64, device=HOST)

    def weigh(self, value: Tensor) -> Tensor:
        """Return the value times the weight."""
        if self._weight_tensor is None and self.weight == 1.0:
            return value  # as a hand-written loop, without a multiplication
        return self.factor * value
