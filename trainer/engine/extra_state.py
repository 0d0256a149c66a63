"""What a model, or a step of the user's, holds besides the net and its optimizer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fitorch.data.plain_attributes import is_plain
from fitorch.data.rng_state import GENERATORS, capture_generators, restore_generators
from fitorch.nets.state import NetState
from fitorch.optim.several import members_of

if TYPE_CHECKING:
    from .base_model import BaseModel

_DEPTH = 3  # of objects in objects that are searched for modules


def extra_parts(model: BaseModel) -> dict[str, Any]:
    """Return what is saved with a model, by name, besides net, loss, optimizer and schedule.

    That is each attribute and further argument with `state_dict` and `load_state_dict`, alone, in a
    list, a dict or an object. If a step of the user's trains, it is also the modules, optimizers
    and schedules that its functions refer to, and the plain values, tensors and generators among
    the attributes.
    """
    known = _known(model)
    found = _flat({**_values(model), **model.kwargs})
    parts = {name: value for name, value in found if _has_state(value) and id(value) not in known}
    if model.has_own_step:
        known |= {id(value) for value in parts.values()}
        # By its id: an object that a function refers to may be an attribute, too.
        for name, value in _flat(_variables(model)):
            if isinstance(value, _TRAINED) and id(value) not in known:
                known.add(id(value))
                parts[f"step.{name}"] = value
    wrapped = {
        f"extra.{name}": NetState(value) if isinstance(value, nn.Module) else value
        for name, value in parts.items()
    }
    values = {"extra.attributes": AttributeState(model)} if model.has_own_step else {}
    return {**wrapped, **values}


def move_extra(model: BaseModel, device: torch.device) -> None:
    """Move the modules among the attributes of a model to its device."""
    known = _known(model)
    for _, value in _flat(_values(model)):
        if isinstance(value, nn.Module) and id(value) not in known:
            value.to(device)


def optimizers_of(model: BaseModel) -> list[Optimizer]:
    """Return all optimizers that a model or a step of the user's holds."""
    own = [] if model.optimizer is None else list(members_of(model.optimizer).values())
    extra = [part for part in extra_parts(model).values() if isinstance(part, Optimizer)]
    return [*own, *extra]


class AttributeState:
    """The plain values, tensors and generators among the attributes that a user gave a model.

    Args:
        model: The model.
    """

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return the values, and the states of the generators."""
        values = {
            name: value
            for name, value in _values(self._model).items()
            if is_plain(value) or isinstance(value, Tensor)
        }
        return {"values": values, "generators": capture_generators([self._generators()])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the values and the generators."""
        for name, value in state["values"].items():
            before: Any = getattr(self._model, name, None)
            if isinstance(value, Tensor) and isinstance(before, Tensor):
                setattr(self._model, name, value.to(before.device))
            else:
                setattr(self._model, name, value)
        restore_generators([self._generators()], state["generators"])

    def _generators(self) -> SimpleNamespace:
        values = _values(self._model).items()
        return SimpleNamespace(**{name: v for name, v in values if isinstance(v, GENERATORS)})


_TRAINED = (nn.Module, Optimizer, LRScheduler)


def _flat(values: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield values with their names; those of lists, dicts and plain objects one by one."""
    for name, value in values.items():
        if _has_state(value):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _flat({f"{name}.{key}": each for key, each in value.items()}, depth)
        elif isinstance(value, (list, tuple)):
            yield from _flat({f"{name}.{number}": v for number, v in enumerate(value)}, depth)
        elif depth < _DEPTH and _is_plain_object(value):
            inner = {f"{name}.{key}": each for key, each in vars(value).items()}
            yield from ((n, v) for n, v in _flat(inner, depth + 1) if isinstance(v, _TRAINED))


def _is_plain_object(value: Any) -> bool:
    """Return whether a value is an object of the user's, in which modules may be."""
    if isinstance(value, (type, ModuleType, FunctionType, Tensor)) or not hasattr(
        value, "__dict__"
    ):
        return False
    return type(value).__module__.partition(".")[0] not in ("torch", "fitorch", "numpy")


def _has_state(value: Any) -> bool:
    """Return whether a value is an object with a state that can be restored."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _values(model: BaseModel) -> dict[str, Any]:
    """Return the attributes that the user gave a model, which are not fitorch's own."""
    return {name: value for name, value in vars(model).items() if name not in model.own_attributes}


def _variables(model: BaseModel) -> dict[str, Any]:
    """Return the variables that the functions of a step refer to, outside of them."""
    kind = type(model)
    functions = [model.step, kind.train_step, kind.test_step, kind.predict_step]
    if model.StepRunner is not None:
        functions += [f for f in vars(model.StepRunner).values() if isinstance(f, FunctionType)]
    found: dict[str, Any] = {}
    for function in functions:
        if function is not None:
            found |= _referred_to(function)
    return found


def _referred_to(function: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        found |= {str(number): each for number, each in enumerate(function.args)}
        found |= function.keywords
        function = function.func
    if inspect.ismethod(function):
        found["self"] = function.__self__
        function = function.__func__
    if not isinstance(function, FunctionType):  # an object that is called
        return {**found, "step": function}
    outside = inspect.getclosurevars(function)
    return {**outside.globals, **outside.nonlocals, **found}


def _known(model: BaseModel) -> set[int]:
    """Return the ids of what is saved already: parts of the net, the loss and the optimizer."""
    held: list[Any] = [model, *model.net.modules(), model.loss_fn]
    for objective in model.objectives:
        held += objective.module.modules()
    if model.optimizer is not None:
        held += [model.optimizer, *members_of(model.optimizer).values()]
    return {id(each) for each in [*held, model.lr_scheduler]}
