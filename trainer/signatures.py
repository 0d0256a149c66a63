"""Signatures of users' functions: which of their arguments are the targets, and which they take."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

_TARGETS = {"y_true", "true", "target", "targets", "label", "labels", "y", "gt", "ground_truth"}
_TARGETS |= {"truth", "actual", "reference"}

_PREDICTIONS = {"y_pred", "pred", "preds", "prediction", "predictions", "predicted", "y_hat"}
_PREDICTIONS |= {"yhat", "y_score", "y_prob", "y_proba", "y_logits", "logits", "output", "outputs"}
_PREDICTIONS |= {"scores", "probs", "probabilities", "input", "inputs"}


def takes_targets_first(function: Any) -> bool:
    """Return whether the names of the first two parameters are those of `(y_true, y_pred)`.

    scikit-learn and Keras write losses and metrics in this order, torch in the other one. Names
    that leave a doubt, such as `(a, b)`, count as torch's order.

    Args:
        function: A function, or a module, whose `forward` is looked at.
    """
    names = _positional(function)[:2]
    return len(names) == 2 and names[0].lower() in _TARGETS and names[1].lower() in _PREDICTIONS


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or of a module's `forward`; empty if they are unknown."""
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        return dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # a built-in without a signature
        return {}


def name_of(function: Any) -> str:
    """Return the name of a function, or the class of an object, for messages."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _positional(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in parameters_of(function).items() if p.kind in kinds]
