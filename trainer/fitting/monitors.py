"""Which value decides what is best, and in which direction each monitored value improves."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch.optim import lr_scheduler

from fitorch.callbacks.callback_list import one_by_one
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.monitor import MonitorCallback, check_monitor, figures_added_by, spellings
from fitorch.engine.arguments import FitArguments
from fitorch.metrics.base import flat
from fitorch.metrics.registry import higher_is_better

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


def watched_figure(
    model: BaseModel, arguments: FitArguments, figures: list[str], sets: list[str]
) -> tuple[str, str]:
    """Return the full name of the figure that decides what is best, and its direction.

    Raises:
        ValueError: The fit will not measure it, or which direction is better can't be told.
    """
    monitor = arguments.monitor
    added = _added_by(arguments.callbacks, figures)
    known = [*figures, *added]
    if monitor == "val_loss" and monitor not in known:
        monitor = f"{sets[0]}loss" if sets else "train_loss"
    check_monitor(monitor, known, "fit", _losses(model, sets).union(added))
    monitor = full_name(monitor, known)
    if monitor in added:
        _check_schedule(model.lr_scheduler, monitor)
    mode = arguments.mode
    if mode == "auto":
        mode = direction(monitor, model, sets, added)
    return monitor, mode


def check_monitors(
    callbacks: Iterable[Any], model: BaseModel, figures: list[str], sets: list[str]
) -> None:
    """Check what each callback monitors, and tell it the direction where it has none.

    The display is told the directions of all figures.

    Raises:
        ValueError: The fit will not measure it, a callback adds it only later, or which direction
            is better can't be told.
    """
    losses, added = _losses(model, sets), list[str]()
    callbacks = list(one_by_one(callbacks))
    _tell_directions(callbacks, model, figures, sets)
    for place, callback in enumerate(callbacks):
        added += _added_by([callback], figures)
        if not isinstance(callback, MonitorCallback):
            continue
        known, numbers = [*figures, *added], losses.union(added)
        watched = [callback.monitor] if callback.watches else []
        for name in (*watched, *callback.placeholders):
            _check_order(name, known, callback, callbacks[place + 1 :])
            check_monitor(name, known, type(callback).__name__, numbers)
        callback.optional = frozenset(added)
        if watched and callback.mode == "auto":
            name = full_name(callback.monitor, known)
            callback.set_direction(direction(name, model, sets, added))


def _added_by(callbacks: Iterable[Any], figures: list[str]) -> list[str]:
    """Return the figures that only `callbacks` add to the logs."""
    names = [name for callback in callbacks for name in figures_added_by(callback)]
    return [name for name in names if name not in figures]


def _check_order(monitor: str, known: list[str], callback: Any, later: list[Any]) -> None:
    """Refuse a figure that is added to the logs only after `callback` has looked at them."""
    wanted = set(spellings(monitor))
    if not wanted.isdisjoint(known):
        return
    adding = next((each for each in later if not wanted.isdisjoint(figures_added_by(each))), None)
    if adding is not None:
        who, source = type(callback).__name__, type(adding).__name__
        message = (
            f"{who} monitors {monitor!r}, which {source} adds to the logs after {who} has looked "
            f"at them; put {source} before {who} in callbacks"
        )
        raise ValueError(message)


def _check_schedule(scheduler: Any, monitor: str) -> None:
    """Refuse a plateau schedule of torch's, which goes on before callbacks add to the logs."""
    if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return
    message = (
        f"lr_scheduler=ReduceLROnPlateau goes on before a callback adds {monitor!r} to the logs; "
        "pass fitorch.callbacks.ReduceLROnPlateau in callbacks instead"
    )
    raise ValueError(message)


def _losses(model: BaseModel, sets: Iterable[str]) -> set[str]:
    """Return the names of the loss, of its terms and of their weights."""
    terms = ("loss", *model.objective.names)
    return {f"{stage}{term}" for stage in ("train_", *sets) for term in terms} | {
        *model.objective.weights
    }


def full_name(monitor: str, figures: list[str]) -> str:
    """Return the figure that Keras' name for a training figure (`loss`, `acc`) stands for."""
    known = monitor in figures or f"train_{monitor}" not in figures
    return monitor if known else f"train_{monitor}"


def _tell_directions(
    callbacks: Iterable[Any], model: BaseModel, figures: list[str], sets: list[str]
) -> None:
    """Tell the display of each figure in which direction it improves, as far as that is known."""
    known = {}
    for name in figures:
        with suppress(ValueError):
            known[name] = direction(name, model, sets)
    for callback in callbacks:
        if isinstance(callback, Progress):
            callback.directions = known


def direction(
    monitor: str,
    model: BaseModel,
    sets: Iterable[str] = ("val_",),
    added: Container[str] = (),
) -> str:
    """Return "min" or "max": min for a loss, otherwise what the metric itself tells.

    Args:
        monitor: The figure.
        model: Its metrics and its objective, whose terms are losses too.
        sets: What the figures of each validation set begin with.
        added: Figures that callbacks add, which tell no direction.

    Raises:
        ValueError: It doesn't tell.
    """
    if monitor in added:
        raise ValueError(_no_direction(monitor))
    metrics = {key: metric for key, _, metric in flat(model.metrics_dict)}
    prefixes = sorted(filter(monitor.startswith, ("train_", *sets)), key=len)
    spelled = [monitor.removeprefix(prefix) for prefix in prefixes] or [monitor]
    known = {"loss", *model.objective.names, *metrics}
    name = next((name for name in spelled if name in known), spelled[-1])
    if name == "loss" or name.endswith("_loss") or name in model.objective.names:
        return "min"
    higher = next(
        (
            higher_is_better(metric, name.removeprefix(key).removeprefix("_"))
            for key, metric in sorted(metrics.items(), key=lambda item: -len(item[0]))
            if name == key or name.startswith(f"{key}_")
        ),
        None,
    )
    if higher is None:
        raise ValueError(_no_direction(monitor))
    return "max" if higher else "min"


def _no_direction(monitor: str) -> str:
    return f"whether a higher {monitor!r} is better can't be told; pass mode='max' or mode='min'"
