"""Which optimizers evaluate the loss within a step, by a closure: L-BFGS, SAM."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer

from .several import Optimizers

_WRAPPED = ("optimizer", "base_optimizer")  # what optimizers that wrap another call it


def needs_closure(optimizer: Optimizer) -> bool:
    """Return whether `optimizer.step` must get a closure.

    It must if the argument has no default, if the class has SAM's `first_step` and `second_step`,
    or if the code of `step` calls the closure elsewhere than under `if closure is not None`, where
    optimizers with an optional closure call it.
    """
    if isinstance(optimizer, Optimizers):
        return any(map(needs_closure, optimizer.members.values()))
    step: Any = inspect.unwrap(type(optimizer).step)
    parameter = inspect.signature(step).parameters.get("closure")
    if parameter is None:
        return False
    if parameter.default is parameter.empty or _is_sam(optimizer):
        return True
    if _calls_closure(step):
        return True
    wrapped = [getattr(optimizer, name, None) for name in _WRAPPED]
    return any(isinstance(inner, Optimizer) and needs_closure(inner) for inner in wrapped)


def _is_sam(optimizer: Optimizer) -> bool:
    return all(callable(getattr(optimizer, name, None)) for name in ("first_step", "second_step"))


def _calls_closure(step: Any) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(step)))
    except (OSError, TypeError, SyntaxError):  # without source code, as of compiled modules
        return False
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "closure"
        for node in _unguarded(tree)
    )


def _unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that also run without a closure: not those under `if closure is not None`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.If, ast.IfExp)) and _tests_closure(child.test):
            rest = child.orelse if isinstance(child.orelse, list) else [child.orelse]
            for other in rest:
                yield from _unguarded(other)
        else:
            yield from _unguarded(child)


def _tests_closure(test: ast.expr) -> bool:
    """Return whether a condition is `closure` or `closure is not None`."""
    if isinstance(test, ast.Compare):
        is_not = len(test.ops) == 1 and isinstance(test.ops[0], (ast.IsNot, ast.NotEq))
        return is_not and isinstance(test.left, ast.Name) and test.left.id == "closure"
    return isinstance(test, ast.Name) and test.id == "closure"
