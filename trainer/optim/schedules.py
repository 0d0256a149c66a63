"""Learning-rate schedules: those that torch lacks, and when each goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


_PER_UPDATE = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR, PerUpdate)


def when_to_step(scheduler: Any, asked: str) -> str:
    """Return when `scheduler` goes on: with each "update", "epoch" or "validation".

    Args:
        scheduler: A scheduler of torch.optim.lr_scheduler, or anything with `step`; or None.
        asked: One of the three, or "auto": OneCycleLR, CyclicLR and WarmupCosine with every update,
            ReduceLROnPlateau with every validation, all others with every epoch.

    Raises:
        ValueError: A plateau schedule should go on with every update, which measures nothing.
    """
    if asked == "update" and isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        message = (
            "ReduceLROnPlateau goes on by a figure of an epoch, but scheduler_step is 'update'; "
            "pass scheduler_step='auto'"
        )
        raise ValueError(message)
    if asked != "auto":
        return asked
    if isinstance(scheduler, _PER_UPDATE):
        return "update"
    return "validation" if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else "epoch"


def step_after_epoch(scheduler: Any, when: str, monitor: str, logs: Mapping[str, float]) -> None:
    """Go on with a schedule at the end of an epoch, where it is due.

    A plateau schedule gets the monitored figure, and goes on only where that is new.
    """
    if scheduler is None or when == "update":
        return
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        if monitor in logs:
            scheduler.step(logs[monitor])
    elif when == "epoch" or any(name.startswith("val_") for name in logs):
        scheduler.step()
