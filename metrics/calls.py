"""Calls of users' functions in the order of their arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from fitorch.signatures import name_of, takes_targets_first

Call = Callable[[Any, Any], Any]

_reported: set[tuple[str, str]] = set()


def call_of(function: Any) -> Call:
    """Return a function `(y_pred, y_true) -> value` that calls a user's function.

    Functions of scikit-learn get NumPy arrays, targets first. Other functions get the targets first
    if the names of their parameters say so.
    """
    if is_sklearn(function):
        return partial(_call_with_arrays, function)
    return partial(_call_swapped, function) if takes_targets_first(function) else function


def is_sklearn(function: Any) -> bool:
    """Return whether a function, or what a `partial` calls, belongs to scikit-learn."""
    while isinstance(function, partial):
        function = function.func
    return (getattr(function, "__module__", None) or "").startswith("sklearn.")


def report_order(function: Any) -> None:
    """Warn once for each function that it is called with the targets first."""
    name = name_of(function)
    where = getattr(function, "__module__", "") or "", getattr(function, "__qualname__", name)
    if where in _reported:
        return
    _reported.add(where)
    mean = (
        f"; its value is a mean over the batches, and whole_epoch({name}) is that of the epoch"
        if is_sklearn(function)
        else ""
    )
    warnings.warn(
        f"metric {name} takes (y_true, y_pred), so it is called with the targets first{mean}",
        stacklevel=2,
    )


def _call_swapped(function: Any, y_pred: Any, y_true: Any) -> Any:
    return function(y_true, y_pred)


def _call_with_arrays(function: Any, y_pred: Any, y_true: Any) -> Any:
    return function(_as_array(y_true), _as_array(y_pred))


def _as_array(value: Any) -> Any:
    # The copy to the CPU waits for the device, in each batch: scikit-learn has no other arrays.
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
