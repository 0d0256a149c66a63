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
    optimizers with an optional closure call it, or raises an error without one.
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
    return any(map(_is_call, _unguarded(tree))) or any(map(_refuses_none, ast.walk(tree)))


def _is_call(node: ast.AST) -> bool:
    """Return whether an expression is `closure(...)`."""
    function = node.func if isinstance(node, ast.Call) else None
    return isinstance(function, ast.Name) and function.id == "closure"


def _refuses_none(node: ast.AST) -> bool:
    """Return whether a statement is `if closure is None: raise ...`."""
    if not isinstance(node, ast.If) or _tests_closure(node.test) is not False:
        return False
    return any(isinstance(each, ast.Raise) for each in node.body)


def _unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that also run without a closure: not those under `if closure is not None`."""
    yield node
    for child in ast.iter_child_nodes(node):
        without = _without_closure(child) if isinstance(child, (ast.If, ast.IfExp)) else None
        for part in [child] if without is None else without:
            yield from _unguarded(part)


def _without_closure(branch: ast.If | ast.IfExp) -> list[ast.AST] | None:
    """Return what a branch runs without a closure; None if its condition is about other things."""
    given = _tests_closure(branch.test)
    if given is None:
        return None
    part: Any = branch.orelse if given else branch.body
    return part if isinstance(part, list) else [part]


def _tests_closure(test: ast.expr) -> bool | None:
    """Return whether a condition holds with a closure, or without; None if it is another one."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        given = _tests_closure(test.operand)
        return None if given is None else not given
    if isinstance(test, ast.Name):
        return True if test.id == "closure" else None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    named = isinstance(test.left, ast.Name) and test.left.id == "closure"
    if not named or not isinstance(test.ops[0], (ast.Is, ast.IsNot, ast.Eq, ast.NotEq)):
        return None
    return isinstance(test.ops[0], (ast.IsNot, ast.NotEq))
