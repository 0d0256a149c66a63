"""Modules, optimizers and schedules that a model holds besides its net and its optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fitorch.nets.state import NetState
from fitorch.optim.several import members_of

if TYPE_CHECKING:
    from .base_model import BaseModel

_OWN = ("net", "loss_fn", "metrics_dict", "kwargs", "forward_hook", "step")


def extra_parts(model: BaseModel) -> dict[str, Any]:
    """Return what is saved with a model, by name: further arguments and attributes with a state.

    They are those of a `StepRunner`, or of a step of the user's, as `critic=` and
    `critic_optimizer=`, alone or in a list or a dict.
    """
    known = _known(model)
    return {
        f"extra.{name}": NetState(value) if isinstance(value, nn.Module) else value
        for name, value in _flat({**_values(model), **model.kwargs})
        if _has_state(value) and id(value) not in known
    }


def move_extra(model: BaseModel, device: torch.device) -> None:
    """Move the modules among the attributes of a model to its device."""
    known = _known(model)
    for _, value in _flat(_values(model)):
        if isinstance(value, nn.Module) and id(value) not in known:
            value.to(device)


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield values with their names; those of lists and dicts one by one."""
    for name, value in values.items():
        if isinstance(value, Mapping) and not _has_state(value):
            yield from _flat({f"{name}.{key}": each for key, each in value.items()})
        elif isinstance(value, (list, tuple)):
            yield from _flat({f"{name}.{number}": each for number, each in enumerate(value)})
        else:
            yield name, value


def _has_state(value: Any) -> bool:
    """Return whether a value is an object with a state that can be restored."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _values(model: BaseModel) -> dict[str, Any]:
    """Return the attributes that are not fitorch's own, as its history is."""
    return {
        name: value
        for name, value in vars(model).items()
        if not name.startswith("_")
        and name not in _OWN
        and not type(value).__module__.startswith("fitorch.")
    }


def _known(model: BaseModel) -> set[int]:
    """Return the ids of what is saved already: parts of the net, the loss and the optimizer."""
    held: list[Any] = [*model.net.modules(), model.loss_fn]
    for objective in model.objectives:
        held += objective.module.modules()
    if model.optimizer is not None:
        held += [model.optimizer, *members_of(model.optimizer).values()]
    return {id(each) for each in [*held, model.lr_scheduler]}
