"""When a learning-rate schedule goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import lr_scheduler

from .schedules import PerUpdate

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
