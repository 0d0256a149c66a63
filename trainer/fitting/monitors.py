"""Resolve monitored values: their full names, and whether lower or higher is better."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch.optim import lr_scheduler

from fitorch.callbacks.callback_list import flatten_callbacks
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.monitor import (
    MonitorCallback,
    added_columns,
    check_monitor,
    check_monitor_name,
    spellings,
)
from fitorch.engine.arguments import FitArguments
from fitorch.metrics.base import flat
from fitorch.metrics.registry import collection_keys, has_one_value, higher_is_better
from fitorch.metrics.results import column_of

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


def monitored_value(
    model: BaseModel, arguments: FitArguments, names: list[str], sets: list[str]
) -> tuple[str, str]:
    """Return the full name of the value that decides which epoch is best, and its direction.

    Raises:
        ValueError: The fit does not measure the value, or its direction is unknown.
    """
    monitor = arguments.monitor
    check_monitor_name(monitor)
    added = _added_by(arguments.callbacks, names)
    known = [*names, *added]
    # "val_loss" is the default: it becomes the loss of the first set, or of training.
    if monitor == "val_loss" and monitor not in known:
        monitor = f"{sets[0]}loss" if sets else "train_loss"
    _check_collections(monitor, "fit", model, sets)
    numbers = _losses(model, sets) | _single_values(model, sets)
    check_monitor(monitor, known, "fit", numbers.union(added))
    monitor = full_name(monitor, known)
    if monitor in added:
        # A schedule steps before the callbacks, so it would miss a value that they add.
        _check_schedule(model.lr_scheduler, monitor)
    mode = arguments.mode
    if mode == "auto":
        mode = direction(monitor, model, sets, added)
    return monitor, mode


def check_monitors(
    callbacks: Iterable[Any], model: BaseModel, names: list[str], sets: list[str]
) -> None:
    """Check the monitored value of each callback, and set its direction if the mode is "auto".

    The directions of all values are also set on the display.

    Raises:
        ValueError: The fit does not measure the value, another callback adds it only later, or its
            direction is unknown.
    """
    losses, added = _losses(model, sets) | _single_values(model, sets), list[str]()
    callbacks = list(flatten_callbacks(callbacks))
    _set_display_directions(callbacks, model, names, sets)
    for place, callback in enumerate(callbacks):
        # The order of the callbacks counts: a value exists for those that come after the one that
        # adds it.
        added += _added_by([callback], names)
        if not isinstance(callback, MonitorCallback):
            continue
        known, numbers = [*names, *added], losses.union(added)
        watched = [callback.monitor] if callback.watches else []
        for name in (*watched, *callback.placeholders):
            _check_order(name, known, callback, callbacks[place + 1 :])
            _check_collections(name, type(callback).__name__, model, sets)
            check_monitor(name, known, type(callback).__name__, numbers)
        # Values that callbacks add may be missing in some epochs, which is not an error.
        callback.optional = frozenset(added)
        if watched and callback.mode == "auto":
            name = full_name(callback.monitor, known)
            callback.set_direction(direction(name, model, sets, added))


def _added_by(callbacks: Iterable[Any], names: list[str]) -> list[str]:
    """Return the values that callbacks add to the logs and the fit does not measure itself."""
    added = [name for callback in callbacks for name in added_columns(callback)]
    return [name for name in added if name not in names]


def _check_order(monitor: str, known: list[str], callback: object, later: list[Any]) -> None:
    """Raise an error if the monitored value is added to the logs only after `callback` runs."""
    accepted = set(spellings(monitor))
    if not accepted.isdisjoint(known):
        return
    adding = next((c for c in later if not accepted.isdisjoint(added_columns(c))), None)
    if adding is not None:
        reader, source = type(callback).__name__, type(adding).__name__
        message = (
            f"{reader} monitors {monitor!r}, which {source} adds to the logs only afterwards; put "
            f"{source} before {reader} in callbacks"
        )
        raise ValueError(message)


def _check_schedule(scheduler: object, monitor: str) -> None:
    """Raise an error for torch's ReduceLROnPlateau, which steps before callbacks add values."""
    if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return
    message = (
        f"lr_scheduler=ReduceLROnPlateau steps before a callback adds {monitor!r} to the logs; "
        "pass fitorch.callbacks.ReduceLROnPlateau in callbacks instead"
    )
    raise ValueError(message)


def _losses(model: BaseModel, sets: Iterable[str]) -> set[str]:
    """Return the names of the loss, of its terms and of their weights."""
    trained = {f"train_{term}" for term in ("loss", *model.objective.names)}
    terms = ("loss", *model.val_objective.names)
    validated = {f"{prefix}{term}" for prefix in sets for term in terms}
    return trained | validated | {*model.objective.weights}


def _single_values(model: BaseModel, sets: Iterable[str]) -> set[str]:
    """Return the columns of metrics that have one value, to which no key can be appended."""
    names = [name for name, _, metric in flat(model.metrics_dict) if has_one_value(metric)]
    return {f"{stage}{name}" for stage in ("train_", *sets) for name in names}


def _check_collections(monitor: str, who: str, model: BaseModel, sets: Iterable[str]) -> None:
    """Raise an error for the name of a collection of metrics, which has no value of its own."""
    for name, _, metric in flat(model.metrics_dict):
        keys = collection_keys(metric)
        stages = [s for s in ("train_", *sets, "") if monitor == f"{s}{name}"]
        if keys and name not in keys and stages:
            columns = [f"{stages[0]}{column_of(name, key)}" for key in keys]
            message = (
                f"{who} monitors {monitor!r}, which is a collection of metrics; pass the column of "
                f"one of them: {columns}"
            )
            raise ValueError(message)


def full_name(monitor: str, names: list[str]) -> str:
    """Return the name with its prefix; Keras names training values without it (`loss`, `acc`)."""
    is_full = monitor in names or f"train_{monitor}" not in names
    return monitor if is_full else f"train_{monitor}"


def _set_display_directions(
    callbacks: Iterable[Any], model: BaseModel, names: list[str], sets: list[str]
) -> None:
    """Set on the display the direction of each value for which it is known."""
    directions = {}
    for name in names:
        # Values of unknown direction get no arrow.
        with suppress(ValueError):
            directions[name] = direction(name, model, sets)
    for callback in callbacks:
        if isinstance(callback, Progress):
            callback.directions = directions


def direction(
    monitor: str,
    model: BaseModel,
    sets: Iterable[str] = ("val_",),
    added: Container[str] = (),
) -> str:
    """Return "min" or "max": "min" for a loss, else the direction that the metric declares.

    Args:
        monitor: The name of the value.
        model: The model, with its metrics and its objective, whose terms are losses too.
        sets: The prefix of the values of each validation set, as "val_".
        added: Values that callbacks add, whose direction is unknown.

    Raises:
        ValueError: The direction is unknown.
    """
    if monitor in added:
        raise ValueError(_no_direction(monitor))
    metrics = {key: metric for key, _, metric in flat(model.metrics_dict)}
    # The prefixes of validation sets may begin with each other ("val_", "val_noisy_").
    prefixes = sorted(filter(monitor.startswith, ("train_", *sets)), key=len)
    candidates = [monitor.removeprefix(prefix) for prefix in prefixes] or [monitor]
    losses = {name for objective in model.objectives for name in ("loss", *objective.names)}
    known = losses | {*metrics}
    name = next((name for name in candidates if name in known), candidates[-1])
    if name.endswith("_loss") or name in losses:
        return "min"
    higher = next(
        (
            higher_is_better(metric, name.removeprefix(key).removeprefix("_"))
            # The longest name comes first: "f1_macro" must not be taken for a value of "f1".
            for key, metric in sorted(metrics.items(), key=lambda item: -len(item[0]))
            if name == key or name.startswith(f"{key}_")
        ),
        None,
    )
    if higher is None:
        raise ValueError(_no_direction(monitor))
    return "max" if higher else "min"


def _no_direction(monitor: str) -> str:
    return f"cannot tell whether a higher {monitor!r} is better; pass mode='max' or mode='min'"
