"""What `set_params` may change between two calls of `partial_fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fitorch.model import KerasModel
from fitorch.optim.optimizers import optimizer_named

# A model is built of these once.
_PARTS = ("net", "loss_fn", "metrics_dict", "optimizer", "lr_scheduler", "device")

_OPTION = "optimizer__"


def built_from(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of an estimator from which its model is built."""
    return {
        name: value
        for name, value in parameters.items()
        if name in _PARTS or name.startswith(("net__", _OPTION))
    }


def apply_changes(model: KerasModel, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Apply changed options of the optimizer to a model that is trained further.

    Args:
        model: The model.
        before: The parameters from which it was built, or that were applied last.
        now: The present parameters of the estimator.

    Raises:
        ValueError: Another parameter was changed, or an option cannot be changed.
    """
    changed = [name for name in {**before, **now} if not _equal(name, before, now)]
    fixed = [name for name in changed if not name.startswith(_OPTION)]
    if fixed:
        message = (
            f"{', '.join(fixed)} changed after the net was built, and partial_fit continues with "
            "that net; call fit for a new one, or set the parameter back"
        )
        raise ValueError(message)
    if not changed:
        return
    names = [name.removeprefix(_OPTION) for name in changed]
    values = _option_values(model, now)
    for name in names:
        _check_option(model, name, values)
    assert model.optimizer is not None
    for group in model.optimizer.param_groups:
        group.update({name: values[name] for name in names})


def _equal(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if name not in before or name not in now:
        return False
    old, new = before[name], now[name]
    try:
        return old is new or bool(old == new)
    except (ValueError, RuntimeError, TypeError):  # of arrays and tensors
        return False


def _option_values(model: KerasModel, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a new optimizer, which checks them; {} of a user's function."""
    optimizer = "adam" if now["optimizer"] is None else now["optimizer"]
    kind: Any = optimizer_named(optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(kind, type) or model.optimizer is None:
        return {}
    options = {n.removeprefix(_OPTION): v for n, v in now.items() if n.startswith(_OPTION)}
    options = {"lr": 3e-4, **options} if now["optimizer"] is None else options
    fresh: torch.optim.Optimizer = kind([nn.Parameter(torch.zeros(1, device="cpu"))], **options)
    return {name: value for name, value in fresh.param_groups[0].items() if name != "params"}


def _check_option(model: KerasModel, name: str, values: Mapping[str, Any]) -> None:
    """Raise an error if an option of the optimizer cannot be changed.

    Raises:
        ValueError: The optimizer lacks it, a schedule sets it, or its state depends on it.
    """
    reason = ""
    if name not in values:
        reason = "the optimizer does not keep it"
    elif name == "lr" and model.lr_scheduler is not None:
        reason = "lr_scheduler sets the rate"
    else:
        groups = [] if model.optimizer is None else model.optimizer.param_groups
        # Switches, as amsgrad, and a momentum out of none, need a state that was not kept.
        kept = all(_is_number(g[name]) and (name != "momentum" or g[name] > 0) for g in groups)
        if not (kept and _is_number(values[name])):
            reason = "the state of the optimizer depends on it"
    if reason:
        message = (
            f"optimizer__{name} cannot change between two calls of partial_fit: {reason}; call fit "
            "for a new net and optimizer, or set the parameter back"
        )
        raise ValueError(message)


def _is_number(value: object) -> bool:
    """Return whether a value is a number, or several, but not a switch."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_number, value))
    return isinstance(value, (int, float, torch.Tensor)) and not isinstance(value, bool)
