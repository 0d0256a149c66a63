"""When a schedule takes a step, and with which arguments: of torch, Transformers, timm, others."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch.optim import lr_scheduler

from fitorch.signatures import parameters_of

from .schedulers import schedules_of
from .schedules import PerUpdate

_PER_UPDATE = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR, PerUpdate)
_UPDATE_LIBRARIES = ("transformers", "diffusers")  # their functions return a LambdaLR of updates
_MEASURED = ("metric", "metrics", "value", "loss", "val_loss", "score")  # names of arguments


class Scheduling:
    """The schedules of a fit, each with when it takes a step.

    Args:
        scheduler: What `make_scheduler` returned.
        asked: "update", "epoch", "validation", or "auto" for what suits the kind of each schedule.

    Raises:
        ValueError: A schedule needs a measured value, but `asked` is "update"; or its `step` needs
            arguments that a fit does not have.
    """

    def __init__(self, scheduler: Any, asked: str) -> None:
        self._parts = [(each, when_to_step(each, asked)) for each in schedules_of(scheduler)]
        self._updating = [_after_update(s) for s, when in self._parts if _per_update(s, when)]
        self._measuring = [(s, w, _after_epoch(s)) for s, w in self._parts if w != "update"]

    @property
    def when(self) -> str:
        """When the schedules take a step: "update", "epoch", "validation", or several of these."""
        return ", ".join(dict.fromkeys(when for _, when in self._parts))

    @property
    def per_update(self) -> bool:
        """Whether a schedule changes rates with every update."""
        return bool(self._updating)

    def parts(self) -> list[tuple[Any, str]]:
        """Return each schedule, and when it takes a step."""
        return list(self._parts)

    def after_update(self, updates: int) -> None:
        """Take the steps that are due after an update.

        Args:
            updates: The completed updates.
        """
        for step in self._updating:
            step(updates)

    def after_epoch(self, epochs: int, monitor: str, logs: Mapping[str, float]) -> None:
        """Take the steps that are due after an epoch.

        A schedule that needs a value takes a step only if the epoch measured it.

        Args:
            epochs: The completed epochs, with this one.
            monitor: The value that schedules such as ReduceLROnPlateau get.
            logs: The values of the epoch.
        """
        for scheduler, when, step in self._measuring:
            # With "validation", only epochs that measured something on validation data count.
            validated = any(name.startswith("val_") for name in logs)
            if needs_value(scheduler):
                if monitor in logs:
                    step(epochs, logs[monitor])
            elif when == "epoch" or validated:
                step(epochs, logs.get(monitor))


def when_to_step(scheduler: Any, asked: str) -> str:
    """Return when a schedule takes a step: after each "update", "epoch" or "validation".

    Args:
        scheduler: A scheduler of torch.optim.lr_scheduler, or another object with `step`.
        asked: One of the three, or "auto". That is every validation for what needs a value, as
            ReduceLROnPlateau; every update for OneCycleLR, CyclicLR, WarmupCosine, the schedules of
            Transformers, and SequentialLR and ChainedScheduler with one of these; and every epoch
            for all others. Schedules of timm get both calls, `step_update` and `step`.

    Raises:
        ValueError: `asked` is "update" for a schedule that needs a measured value.
    """
    if asked == "update" and needs_value(scheduler):
        name = type(scheduler).__name__
        message = (
            f"{name} needs a value of an epoch, but scheduler_step is 'update'; pass "
            "scheduler_step='auto'"
        )
        raise ValueError(message)
    if asked != "auto":
        return asked
    if counts_updates(scheduler):
        return "update"
    return "validation" if needs_value(scheduler) else "epoch"


def counts_updates(scheduler: Any) -> bool:
    """Return whether a schedule is known to count updates, not epochs."""
    inner = getattr(scheduler, "_schedulers", None)  # of SequentialLR and ChainedScheduler
    if isinstance(inner, (list, tuple)):
        return any(map(counts_updates, inner))
    return isinstance(scheduler, _PER_UPDATE) or any(
        inspect.unwrap(_function(each)).__module__.partition(".")[0] in _UPDATE_LIBRARIES
        for each in getattr(scheduler, "lr_lambdas", ())
        if hasattr(_function(each), "__module__")
    )


def needs_value(scheduler: Any) -> bool:
    """Return whether `scheduler.step` needs a measured value."""
    inner = getattr(scheduler, "lr_scheduler", None)  # timm's PlateauLRScheduler has torch's
    if any(isinstance(each, lr_scheduler.ReduceLROnPlateau) for each in (scheduler, inner)):
        return True
    return any(name in _MEASURED for name in _required(scheduler))


def mode_of(scheduler: Any) -> str | None:
    """Return whether lower or higher values are better for a schedule: "min", "max" or None."""
    inner = getattr(scheduler, "lr_scheduler", scheduler)
    mode = getattr(inner, "mode", None) if needs_value(scheduler) else None
    return mode if mode in ("min", "max") else None


def _per_update(scheduler: Any, when: str) -> bool:
    return when == "update" or hasattr(scheduler, "step_update")


def _after_update(scheduler: Any) -> Callable[[int], Any]:
    if hasattr(scheduler, "step_update"):
        return lambda updates: scheduler.step_update(num_updates=updates)
    _refuse_arguments(scheduler, [])
    return lambda _: scheduler.step()


def _after_epoch(scheduler: Any) -> Callable[[int, float | None], Any]:
    """Return a function of the completed epochs and the monitored value, None if not measured."""
    required = _required(scheduler)
    known = {"epoch", *_MEASURED}
    _refuse_arguments(scheduler, [name for name in required if name in known])
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return lambda _, value: scheduler.step(cast("float", value))
    # Torch's own schedules have an `epoch`, too, which is deprecated.
    optional = set(parameters_of(scheduler.step)) & {"metric", "metrics"}

    def step(epochs: int, value: float | None) -> None:
        given = {name: epochs if name == "epoch" else value for name in required}
        if value is not None:
            given |= dict.fromkeys(optional, value)
        scheduler.step(**given)

    return step


def _refuse_arguments(scheduler: Any, known: list[str]) -> None:
    """Raise an error if `step` needs arguments that a fit does not have.

    Raises:
        ValueError: It does.
    """
    unknown = [name for name in _required(scheduler) if name not in known]
    if unknown:
        message = (
            f"{type(scheduler).__name__}.step needs {', '.join(unknown)}, which fit does not have: "
            "it passes epoch and metric; pass a schedule of torch.optim.lr_scheduler, or step it "
            "in a callback"
        )
        raise ValueError(message)


def _required(scheduler: Any) -> list[str]:
    if isinstance(scheduler, lr_scheduler.LRScheduler):
        return []
    parameters = parameters_of(scheduler.step).values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _function(function: Any) -> Any:
    return function.func if isinstance(function, functools.partial) else function
