"""Metrics over what several processes counted, each sample once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fitorch.internals.torchmetrics import has_states, is_metric, reductions_of, set_merged


def merge(metric: Any, parts: Sequence[Any]) -> None:
    """Make a metric stand for all that its copies counted; they stay as they are.

    Args:
        metric: What it counted itself is forgotten.
        parts: Its copies that counted something, at least one.

    Raises:
        TypeError: The metric does not tell how its states are merged.
    """
    if callable(getattr(metric, "merge", None)):  # ours
        metric.merge(parts)
    elif is_metric(metric):
        _merge_modules(metric, parts)
    elif callable(getattr(metric, "merge_state", None)):
        metric.reset()
        for part in parts:
            metric.merge_state(part)
    else:
        message = (
            f"{type(metric).__name__} can't be measured on several processes; give it a method "
            "merge_state(other) that counts in what another one counted"
        )
        raise TypeError(message)


def portable(metric: Any) -> Any:
    """Return the metric without what every process has itself, and not all can be pickled."""
    local = [name for name in ("function", "entry") if name in getattr(metric, "__dict__", ())]
    if not local or isinstance(metric, nn.Module):
        return metric
    metric = copy.copy(metric)
    for name in local:
        setattr(metric, name, None)
    return metric


def without_sync(metric: Any) -> Any:
    """Return the metric, kept from gathering states on its own where processes compute it.

    Metrics of torchmetrics do that in `compute`, which waits forever where not all processes
    compute at once, and would count each sample twice where states are merged already.
    """
    for module in metric.modules() if hasattr(metric, "modules") else ():
        if hasattr(module, "distributed_available_fn"):
            module.distributed_available_fn = _never_distributed
    return metric


def _never_distributed() -> bool:
    return False


def _merge_modules(metric: Any, parts: Sequence[Any]) -> None:
    """Merge a metric of torchmetrics, and those that it consists of, one by one."""
    for each in (metric, *parts):
        if type(each).__name__ == "MetricCollection":
            each.values()  # members of a group get states of their own
    for own, *others in zip(metric.modules(), *(p.modules() for p in parts), strict=True):
        if has_states(own):
            _merge_states(own, others)


def _merge_states(metric: Any, parts: Sequence[Any]) -> None:
    for name, reduction in reductions_of(metric).items():
        states = [getattr(part, name) for part in parts]
        setattr(metric, name, _reduce_states(states, reduction))
    set_merged(metric, parts)


def _reduce_states(states: list[Any], reduction: Any) -> Any:
    """Return one state of several, as torchmetrics does where processes meet."""
    if len(states) == 1:
        return copy.deepcopy(states[0])
    if any(isinstance(state, list) for state in states):
        listed = [state if isinstance(state, list) else [state] for state in states]
        joined = [item for state in listed for item in state]
        if reduction is None or getattr(reduction, "__name__", "") == "dim_zero_cat":
            return joined
        return reduction(joined)
    if len({state.numel() for state in states}) == 1:  # () and (1,), in Pearson's of some versions
        shape = min((state.shape for state in states), key=len)
        states = [state.reshape(shape) for state in states]
    stacked = torch.stack(states)
    return stacked if reduction is None else reduction(stacked)
