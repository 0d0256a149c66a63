"""A learning rate schedule: warm-up with a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer, lr_scheduler


class PerUpdate(lr_scheduler.LambdaLR):
    """A schedule that takes a step in every update."""


@dataclass(frozen=True)
class WarmupCosine:
    """Factory for a schedule with a linear warm-up, followed by a cosine decay.

    The rate of update t, counted from 0, is `lr * (t + 1) / warmup` in the first `warmup` updates,
    then `lr * (final + (1 - final) * (1 + cos(pi * (t - warmup) / (updates - warmup))) / 2)`, and
    `lr * final` after the last. The schedule takes a step in every update.

    Source: Loshchilov and Hutter, 2017, SGDR, eq. 5, for one period; Goyal et al., 2017, Accurate,
    large minibatch SGD, section 2.2, for the warm-up.

    Args:
        updates: The number of all updates, including the warm-up: epochs times batches per epoch.
        warmup: The number of updates of the warm-up.
        final: The final rate as a fraction of the optimizer's rate, in [0, 1].

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> from fitorch import WarmupCosine
        >>> optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = WarmupCosine(updates=6, warmup=2)(optimizer)
        >>> rates = []
        >>> for _ in range(7):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    updates: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.updates < 1 or not 0 <= self.warmup < self.updates:
            message = (
                f"updates={self.updates} and warmup={self.warmup}; expected updates >= 1 and "
                "0 <= warmup < updates"
            )
            raise ValueError(message)
        if not 0 <= self.final <= 1:
            message = f"final is {self.final!r}; expected a fraction of the rate, in [0, 1]"
            raise ValueError(message)

    def __call__(self, optimizer: Optimizer) -> PerUpdate:
        """Return the schedule for an optimizer."""
        return PerUpdate(optimizer, self.factor)

    def factor(self, update: int) -> float:
        """Return the factor of the optimizer's rate in an update, counted from 0."""
        if update < self.warmup:
            # The warm-up starts at 1 / warmup, not at 0: the first update moves the weights too.
            return (update + 1) / self.warmup
        # After the last update the rate stays at its end.
        progress = min((update - self.warmup) / (self.updates - self.warmup), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
