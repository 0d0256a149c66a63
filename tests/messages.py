"""The messages of errors and warnings that the package raises, read out of its source.

`python tests/messages.py` prints those that docs/errors.md lacks, ready to be pasted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("trainer", "callbacks", "losses", "metrics")
# What nobody sees but fitorch itself has no place on the page; each with its reason.
INTERNAL = {
    "a … can't be in two processes": "caught: num_workers='auto' stays without workers",
}
_RAISED = re.compile(r"(Error|Warning|Exception|Preempted|Interrupt)$")
_PASSED_ON = {
    "warn": 0,
    "write_error": 0,
    "_errors": 1,
    "annotate": 1,
}  # which argument is the text
_VARIABLE = "…"


@dataclass(frozen=True)
class Scope:
    """Where a name or a call is looked up: the function around it, its module, all functions."""

    function: ast.AST
    module: ast.Module
    functions: dict[str, list[tuple[ast.AST, ast.Module]]]


@cache
def in_code() -> dict[str, str]:
    """Return each message of the package, "…" for its variable parts, with file and line."""
    found: dict[str, str] = {}
    for expression, texts, where in _all():
        for text in texts:
            if _tells(text):
                found.setdefault(text, f"{where}:{expression.lineno}")
    return found


def not_followed() -> set[str]:
    """Return what is raised with a message that is not found, as "file: expression"."""
    return {
        f"{where}: {ast.unparse(expression)}" for expression, texts, where in _all() if not texts
    }


def on_page() -> list[str]:
    """Return the lines of the page's blocks of messages."""
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    return [
        line
        for block in re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
        for line in block.splitlines()
    ]


def _all() -> Iterator[tuple[ast.expr, list[str], str]]:
    """Give what is raised, the texts that it may have, and the file."""
    modules = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    functions: dict[str, list[tuple[ast.AST, ast.Module]]] = {}
    for module in modules.values():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append((node, module))
    for where, module in modules.items():
        for expression, around in _raised(module, module):
            texts = _texts(expression, Scope(around, module, functions))
            yield expression, [_one_line(text) for text in texts], where


def _raised(node: ast.AST, around: ast.AST) -> Iterator[tuple[ast.expr, ast.AST]]:
    """Give what is passed on as a message, and the function that it is in."""
    for child in ast.iter_child_nodes(node):
        found = _message(child)
        if found is not None:
            yield found, around
        inner = child if isinstance(child, ast.FunctionDef) else around
        yield from _raised(child, inner)


def _message(node: ast.AST) -> ast.expr | None:
    """Return what a call, or `raise kind(message)`, has as its message."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        return node.exc.args[0] if _name(node.exc.func) == "kind" else None
    if not isinstance(node, ast.Call):
        return None
    name = _name(node.func)
    place = 0 if _RAISED.search(name) else _PASSED_ON.get(name)
    return None if place is None or place >= len(node.args) else node.args[place]


def _name(called: ast.expr) -> str:
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


def _texts(expression: ast.expr, scope: Scope) -> Iterator[str]:
    """Give the texts that an expression may have."""
    match expression:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(_part(part, scope) for part in parts)
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, op=ast.Add(), right=other):
            yield from _texts(one, scope)
            yield from _texts(other, scope)
        case ast.Name(id=name):
            for value in _assigned(name, scope):
                yield from _texts(value, scope)
        case ast.Call(func=called):
            named = scope.functions.get(_name(called), [])
            here = [each for each in named if each[1] is scope.module]
            for function, module in here or named:
                yield from _returned(function, Scope(function, module, scope.functions))


def _part(part: ast.expr, scope: Scope) -> str:
    """Return a part of an f-string, where it is known to be a text."""
    match part:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=ast.Name(id=name)):
            values = _assigned(name, scope)
            if len(values) == 1 and isinstance(values[0], ast.Constant):
                return str(values[0].value)
    return _VARIABLE


def _one_line(text: str) -> str:
    return re.sub(rf"{_VARIABLE}[{_VARIABLE}.]*{_VARIABLE}", _VARIABLE, " ".join(text.split()))


def _assigned(name: str, scope: Scope) -> list[ast.expr]:
    """Return the values that a name gets in its function, or else in its module."""
    for nodes in (ast.walk(scope.function), scope.module.body):
        values = [
            node.value
            for node in nodes
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        ]
        if values:
            return values
    return []


def _returned(function: ast.AST, scope: Scope) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield from _texts(node.value, scope)


def _tells(text: str) -> bool:
    """Tell whether there are words in it that somebody could look for."""
    return len(re.findall(r"[a-zA-Z]{2,}", text)) >= 2


if __name__ == "__main__":
    known = {*on_page(), *INTERNAL}
    for text, where in in_code().items():
        if text not in known:
            print(f"{where}\n    {text}")  # noqa: T201
