"""Net and loss as one module, as DeepSpeed's engine takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fitorch.losses.terms import TermValue


class LossModule(nn.Module):
    """Net and loss as one module, which returns the terms of a batch's loss.

    Args:
        net: The net.
        losses: The loss' own module.
    """

    measure: Callable[[Any], list[TermValue]]  # measures a batch; set before the first one

    def __init__(self, net: nn.Module, losses: nn.Module) -> None:
        super().__init__()
        self.net, self.losses = net, losses

    def forward(self, batch: Any) -> list[TermValue]:
        """Return the terms of a batch's loss."""
        parts: list[TermValue] = self.measure(batch)
        return parts
