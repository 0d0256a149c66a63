"""Merging of metrics: the states of several processes, each sample counted once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fitorch.internals.torchmetrics import has_states, is_metric, reductions_of, set_merged


def merge(metric: Any, parts: Sequence[Any]) -> None:
    """Replace the state of a metric by the union of the states of its copies.

    Args:
        metric: The metric; its own state is discarded.
        parts: Its copies that were updated, at least one. They are not changed.

    Raises:
        TypeError: The metric does not support merging.
    """
    if callable(getattr(metric, "merge", None)):  # a metric of fitorch
        metric.merge(parts)
    elif is_metric(metric):
        _merge_modules(metric, parts)
    elif callable(getattr(metric, "merge_state", None)):
        metric.reset()
        for part in parts:
            metric.merge_state(part)
    else:
        message = (
            f"{type(metric).__name__} does not support several processes; define a method "
            "merge_state(other) that adds the state of another instance"
        )
        raise TypeError(message)


def portable(metric: Any) -> Any:
    """Return the metric without its functions, which need not be sent and may not pickle."""
    if hasattr(metric, "portable"):
        return metric.portable()
    names = [
        name for name in ("function", "call", "entry") if name in getattr(metric, "__dict__", ())
    ]
    if not names or isinstance(metric, nn.Module):
        return metric
    metric = copy.copy(metric)
    for name in names:
        setattr(metric, name, None)
    return metric


def without_sync(metric: Any) -> Any:
    """Return the metric with torchmetrics' own synchronization of processes turned off.

    Metrics of torchmetrics synchronize in `compute`. That would wait forever if not all processes
    compute at the same time, and would count each sample twice in states that are merged already.
    """
    for module in metric.modules() if hasattr(metric, "modules") else ():
        if hasattr(module, "distributed_available_fn"):
            module.distributed_available_fn = _never_distributed
    return metric


def _never_distributed() -> bool:
    return False


def _merge_modules(metric: Any, parts: Sequence[Any]) -> None:
    """Merge a metric of torchmetrics and the metrics inside it, one by one."""
    for collection in (metric, *parts):
        if type(collection).__name__ == "MetricCollection":
            collection.values()  # copies the states that members of a compute group share
    # The modules have the same order in all copies, because they were built alike.
    for module, *others in zip(metric.modules(), *(p.modules() for p in parts), strict=True):
        if has_states(module):
            _merge_states(module, others)


def _merge_states(metric: Any, parts: Sequence[Any]) -> None:
    for name, reduction in reductions_of(metric).items():
        states = [getattr(part, name) for part in parts]
        # The order is that of the ranks, so that all processes get the same bits.
        setattr(metric, name, _reduce_states(states, reduction))
    set_merged(metric, parts)


def _reduce_states(states: list[Any], reduction: Any) -> Any:
    """Return the reduction of several states, as torchmetrics' own synchronization computes it."""
    if len(states) == 1:
        # The state is copied, because the parts must not change with the metric.
        return copy.deepcopy(states[0])
    if any(isinstance(state, list) for state in states):
        listed = [state if isinstance(state, list) else [state] for state in states]
        items = [item for state in listed for item in state]
        if reduction is None or getattr(reduction, "__name__", "") == "dim_zero_cat":
            return items
        return reduction(items)
    if (
        len({state.numel() for state in states}) == 1
    ):  # () and (1,) in PearsonCorrCoef of some versions
        shape = min((state.shape for state in states), key=len)
        states = [state.reshape(shape) for state in states]
    stacked = torch.stack(states)
    return stacked if reduction is None else reduction(stacked)
