"""The user's step functions: one argument of `KerasModel`, or the methods of a subclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel

Function = Callable[[Any], Any]  # of a batch


@dataclass(frozen=True, slots=True)
class StepFunctions:
    """What processes a batch in each stage.

    Args:
        model: The model, whose `backward`, `update` and `measure` the functions call.
        train: Trains on a batch and returns its figures by name.
        test: Measures a batch and returns its figures by name.
        name: The name of the first one, for messages.
    """

    model: BaseModel
    train: Function
    test: Function
    name: str


def step_functions(model: BaseModel) -> StepFunctions | None:
    """Return the user's step functions, None if fitorch's own step trains.

    Raises:
        TypeError: `step` is not a function of (model, batch), or the class has a method of
            Lightning's.
        ValueError: Two ways to process a batch are given.
    """
    kind = type(model)
    if hasattr(kind, "training_step") and kind.train_step is None:
        message = (
            f"{kind.__name__} has a training_step, as in Lightning, which fit does not call; name "
            "it train_step(self, batch), call self.backward(loss) and self.update() in it, and "
            "return {'loss': loss}"
        )
        raise TypeError(message)
    if model.step is None and kind.train_step is None:
        if kind.test_step is not None:
            message = f"{kind.__name__} has a test_step, but no train_step; define both"
            raise ValueError(message)
        return None
    _refuse_others(model)
    train: Any = model.train_step if model.step is None else partial(model.step, model)
    name = f"{kind.__name__}.train_step" if model.step is None else _name(model.step)
    try:
        inspect.signature(train).bind(None)
    except (TypeError, ValueError) as error:
        expected = "(self, batch)" if model.step is None else "(model, batch)"
        message = f"{name} cannot be called: {error}; expected {expected}"
        raise TypeError(message) from error
    test = train if kind.test_step is None else model.test_step
    return StepFunctions(model, train, test, name)


def check_callable(model: BaseModel) -> None:
    """Raise an error if a net cannot be called for predictions.

    Raises:
        TypeError: It is a container of nets, and the model has no `predict_step`.
    """
    containers = (nn.ModuleDict, nn.ModuleList)
    if isinstance(model.net, containers) and model.predict_step is None and not model.forward_hook:
        message = (
            f"the net is a {type(model.net).__name__}, which cannot be called; define "
            "predict_step(self, batch) in a subclass of KerasModel"
        )
        raise TypeError(message)


def _refuse_others(model: BaseModel) -> None:
    both = {
        "step= and train_step": model.step is not None and type(model).train_step is not None,
        "a StepRunner and a step": model.StepRunner is not None,
        "forward= and a step": model.forward_hook is not None,
    }
    for what, given in both.items():
        if given:
            message = f"{what} both process a batch; use one of them"
            raise ValueError(message)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
