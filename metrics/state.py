"""Saving and loading of metric states, for checkpoints and for values in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.devices.accelerators import is_host
from fitorch.devices.capabilities import widest_float
from fitorch.internals.torchmetrics import is_metric, state_names
from fitorch.tree import leaves

_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def state_of(metric: Any) -> dict[str, Any]:
    """Return the state of a metric: plain values, and the metric's tensors without copies.

    Metrics of torchmetrics declare their states. For other objects, the state is all attributes
    that are plain values or tensors; other attributes are taken for settings.
    """
    if not isinstance(metric, nn.Module):
        state_dict = getattr(metric, "state_dict", None)
        return dict(state_dict()) if state_dict is not None else _attributes(metric)
    if type(metric).__name__ == "MetricCollection":
        # Copies the states that members of a compute group share.
        metric.values()  # type: ignore[operator]
    return {path: _module_state(module) for path, module in metric.named_modules()}


def load_state(metric: Any, state: Mapping[str, Any]) -> None:
    """Load what `state_of` returned for a metric of the same class; tensors are not copied."""
    if isinstance(metric, nn.Module):
        for path, module in metric.named_modules():
            _load_module_state(module, state[path])
    elif hasattr(metric, "load_state_dict"):
        metric.load_state_dict(state)
    else:
        vars(metric).update(_with_copied_lists(state))


def clone_state(tree: Any) -> Any:
    """Return a copy of a state; tensors in lists are shared, because lists are only appended to."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: clone_state(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, list) else tree


def moved(metric: Any, device: torch.device) -> Any:
    """Return a metric on a device; one without `to` is returned as it is."""
    return metric.to(device) if hasattr(metric, "to") else metric


def move_state(tree: Any, device: torch.device) -> Any:
    """Return a state with its tensors on `device`."""
    if isinstance(tree, Tensor):
        if tree.dtype is torch.float64:
            tree = tree.to(widest_float(device))
        return tree.to(device)
    if isinstance(tree, Mapping):
        return {key: move_state(value, device) for key, value in tree.items()}
    return (
        type(tree)(move_state(v, device) for v in tree) if isinstance(tree, (list, tuple)) else tree
    )


def lies_on_host(state: Any) -> bool:
    """Return whether a state has tensors, all of them in the host's memory."""
    places = [is_host(tensor) for tensor in leaves(state)]
    return bool(places) and all(places)


def _module_state(module: nn.Module) -> dict[str, Any]:
    if is_metric(module):
        state = {name: getattr(module, name) for name in state_names(module)}
    else:
        state = _attributes(module)
    return {**state, **dict(_registered_tensors(module))}


def _load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    for name, value in _with_copied_lists(state).items():
        tensor = dict(_registered_tensors(module)).get(name)
        if tensor is None:
            setattr(module, name, value)
        else:
            # The tensor stays the same object.
            tensor.data = value.data
    if hasattr(module, "_computed"):  # torchmetrics' cached result, which is stale now
        vars(module)["_computed"] = None


def _registered_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield name, tensor


def _attributes(thing: Any) -> dict[str, Any]:
    attributes = getattr(thing, "__dict__", {})
    return {k: v for k, v in attributes.items() if k not in _MODULE_ATTRIBUTES and _is_storable(v)}


def _with_copied_lists(state: Mapping[str, Any]) -> dict[str, Any]:
    # Metrics append to their lists; those of a checkpoint must not grow.
    return {name: list(v) if isinstance(v, list) else v for name, v in state.items()}


def _is_storable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(map(_is_storable, (*value, *value.values())))
    if type(value) in (list, tuple):
        return all(map(_is_storable, value))
    return type(value) in _PLAIN_TYPES or isinstance(value, Tensor)
