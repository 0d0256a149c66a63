"""What a metric has counted, taken out and put back: for reading halfway, and for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from fitorch.internals.torchmetrics import is_metric, state_names

_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def state_of(metric: Any) -> dict[str, Any]:
    """Return what a metric has counted: plain values and the metric's own tensors.

    Metrics of torchmetrics tell their states. Of other objects all attributes are taken that are
    plain values or tensors; what else they hold is taken for settings.
    """
    if not isinstance(metric, nn.Module):
        own = getattr(metric, "state_dict", None)
        return dict(own()) if own is not None else _attributes(metric)
    if type(metric).__name__ == "MetricCollection":
        metric.values()  # type: ignore[operator] # members of a group get states of their own
    return {path: _module_state(module) for path, module in metric.named_modules()}


def load_state(metric: Any, state: Mapping[str, Any]) -> None:
    """Give a metric what `state_of` took out of one like it; tensors are taken as they are."""
    if isinstance(metric, nn.Module):
        for path, module in metric.named_modules():
            _load_module_state(module, state[path])
    elif hasattr(metric, "load_state_dict"):
        metric.load_state_dict(state)
    else:
        vars(metric).update(_with_copied_lists(state))


def clone_state(tree: Any) -> Any:
    """Return a state with tensors of its own; those in lists, which only grow, are shared."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: clone_state(value) for key, value in tree.items()}
    return list(tree) if isinstance(tree, list) else tree


def move_state(tree: Any, device: Any) -> Any:
    """Return a state with its tensors on `device`."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, Mapping):
        return {key: move_state(value, device) for key, value in tree.items()}
    return (
        type(tree)(move_state(v, device) for v in tree) if isinstance(tree, (list, tuple)) else tree
    )


def _module_state(module: nn.Module) -> dict[str, Any]:
    if is_metric(module):
        found = {name: getattr(module, name) for name in state_names(module)}
    else:
        found = _attributes(module)
    return {**found, **dict(_registered_tensors(module))}


def _load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    for name, value in _with_copied_lists(state).items():
        tensor = dict(_registered_tensors(module)).get(name)
        if tensor is None:
            setattr(module, name, value)
        else:
            tensor.data = value.data
    if hasattr(module, "_computed"):
        vars(module)["_computed"] = None


def _registered_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield name, tensor


def _attributes(thing: Any) -> dict[str, Any]:
    own = getattr(thing, "__dict__", {})
    return {k: v for k, v in own.items() if k not in _MODULE_ATTRIBUTES and _is_storable(v)}


def _with_copied_lists(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, list) else v for name, v in state.items()}


def _is_storable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(map(_is_storable, (*value, *value.values())))
    if type(value) in (list, tuple):
        return all(map(_is_storable, value))
    return type(value) in _PLAIN_TYPES or isinstance(value, Tensor)
