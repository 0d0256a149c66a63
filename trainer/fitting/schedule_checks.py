"""Checks of a learning-rate schedule against the length of the fit, before the first batch."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

from fitorch.engine.run import Run
from fitorch.optim.rates import learning_rates
from fitorch.optim.schedulers import scheduler_name
from fitorch.optim.schedules import WarmupCosine
from fitorch.optim.scheduling import mode_of


def check_schedules(run: Run) -> None:
    """Check that the schedules fit the length of the fit, and the monitored value.

    Warns about a warm-up that is longer than the fit, a schedule that ends before it, and a first
    epoch with a rate of 0.

    Raises:
        ValueError: A schedule would raise an error before the end, or its mode is not that of the
            monitored value.
    """
    update = run.state.update
    planned = planned_updates(run)
    for scheduler, when in update.scheduling.parts():
        _check_mode(scheduler, run)
        steps = planned if when == "update" else run.last_epoch - run.progress.epochs
        if when == "update":
            _check_total(scheduler, planned)
        if steps is not None and when != "validation":
            _warn_of_length(scheduler, steps, "updates" if when == "update" else "epochs")
    per_epoch = update.scheduling.when == "epoch" and run.last_epoch > run.progress.epochs
    rates = learning_rates(update.optimizer)
    if per_epoch and rates and not any(rates.values()) and not run.iterator.taken:
        warnings.warn(
            f"{scheduler_name(update.scheduler)} begins with a learning rate of 0 and takes a step "
            "with each epoch, so the first epoch trains nothing; if it counts updates, pass "
            "scheduler_step='update' to fit",
            stacklevel=2,
        )


def planned_updates(run: Run) -> int | None:
    """Return the number of updates that the fit still makes, None if it is not known."""
    steps, window = run.iterator.steps, run.arguments.gradient_accumulation_steps
    if steps is None:
        return None
    epochs = run.last_epoch - run.progress.epochs
    return epochs * math.ceil(steps / window) - math.ceil(run.iterator.taken / window)


def _check_mode(scheduler: Any, run: Run) -> None:
    mode, monitored = mode_of(scheduler), run.model.history.mode
    if mode is not None and mode != monitored:
        better = "lower" if monitored == "min" else "higher"
        message = (
            f"{type(scheduler).__name__} has mode={mode!r}, but {better} values of "
            f"{run.monitor} are better; pass mode={monitored!r} to it, or monitor= to fit"
        )
        raise ValueError(message)


def _check_total(scheduler: Any, planned: int | None) -> None:
    """Raise an error for a schedule such as OneCycleLR, which cannot go on after its last step."""
    total = getattr(scheduler, "total_steps", None)
    if not isinstance(total, int) or planned is None:
        return
    taken = scheduler.last_epoch
    if taken + planned > total:
        message = (
            f"{type(scheduler).__name__} has {total} steps, of which {taken} are taken, but this "
            f"fit makes {planned} updates; build it with total_steps={taken + planned}"
        )
        raise ValueError(message)


def _warn_of_length(scheduler: Any, steps: int, unit: str) -> None:
    name, warmup, length = _lengths(scheduler)
    taken = getattr(scheduler, "last_epoch", 0)
    if warmup and taken + steps <= warmup:
        warnings.warn(
            f"{name} warms up over {warmup} steps, but this fit ends after {taken + steps} {unit}, "
            "so the rate never reaches its value; shorten the warm-up",
            stacklevel=2,
        )
    elif length and taken + steps > length:
        warnings.warn(
            f"{name} ends after {length} steps, but this fit goes on to {taken + steps} {unit}, "
            f"with its last rate; build it for {taken + steps} steps",
            stacklevel=2,
        )


def _lengths(scheduler: Any) -> tuple[str, int | None, int | None]:
    """Return a schedule's name, the steps of its warm-up, and all its steps; None if not known."""
    name = type(scheduler).__name__
    milestones = getattr(scheduler, "_milestones", None)  # of SequentialLR
    if isinstance(milestones, (list, tuple)) and milestones:
        return name, int(milestones[0]), None
    if hasattr(scheduler, "step_update"):  # timm's
        warmup = getattr(scheduler, "warmup_t", None)
        return name, (warmup if isinstance(warmup, int) else None), None
    for function in getattr(scheduler, "lr_lambdas", ()):
        owner = getattr(function, "__self__", None)
        if isinstance(owner, WarmupCosine):
            return type(owner).__name__, owner.warmup, owner.updates
        if isinstance(function, functools.partial):  # of Transformers
            given = function.keywords
            return name, given.get("num_warmup_steps"), given.get("num_training_steps")
    return name, None, None
