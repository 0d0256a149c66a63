"""Learning-rate schedules that torch lacks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer, lr_scheduler


class PerUpdate(lr_scheduler.LambdaLR):
    """A schedule that goes on with every update."""


@dataclass(frozen=True)
class WarmupCosine:
    """A linear warm-up to the optimizer's rate, then half a cosine down: `lr_scheduler=` takes it.

    The rate of update t, counted from 0, is `lr * (t + 1) / warmup` in the first `warmup` updates,
    then `lr * (final + (1 - final) * (1 + cos(pi * (t - warmup) / (updates - warmup))) / 2)`, and
    `lr * final` after the last. It goes on with every update.

    Source: Loshchilov and Hutter, 2017, SGDR, eq. 5, for one period; Goyal et al., 2017, Accurate,
    large minibatch SGD, section 2.2, for the warm-up.

    Args:
        updates: Updates in all, warm-up included: epochs times batches of an epoch.
        warmup: Updates of the warm-up.
        final: The part of the rate that is left in the end, in [0, 1].

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
                f"updates={self.updates} and warmup={self.warmup}; expected at least one update, "
                "and a warm-up shorter than all of them"
            )
            raise ValueError(message)
        if not 0 <= self.final <= 1:
            message = f"final is {self.final!r}; expected a part of the rate, in [0, 1]"
            raise ValueError(message)

    def __call__(self, optimizer: Optimizer) -> PerUpdate:
        """Return the schedule for an optimizer."""
        return PerUpdate(optimizer, self.factor)

    def factor(self, update: int) -> float:
        """Return what the optimizer's rate is multiplied by in an update, counted from 0."""
        if update < self.warmup:
            return (update + 1) / self.warmup
        done = min((update - self.warmup) / (self.updates - self.warmup), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
