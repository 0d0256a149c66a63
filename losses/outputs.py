"""The output of a net, and its targets, that a loss is bound to."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from torch import Tensor

from .shape_checks import MisfitError


def is_tree(value: Any) -> bool:
    """Return whether a value holds several outputs, targets or weights."""
    return isinstance(value, (Mapping, list, tuple))


def output_at(tree: Any, path: tuple[Any, ...], what: str) -> Any:
    """Return the part of a tree that the keys lead to, through items and attributes.

    Raises:
        MisfitError: A key is missing.
    """
    return reduce(lambda part, key: _child(part, key, what), path, tree)


def _child(tree: Any, key: Any, what: str) -> Any:
    if isinstance(tree, Tensor):  # its attributes, such as .data, are not outputs
        raise MisfitError(_missing_output(tree, key, what))
    by_name = isinstance(key, str) and isinstance(tree, tuple)  # a field of a named tuple
    look_up: Any = getattr if by_name or not is_tree(tree) else operator.getitem
    try:
        return look_up(tree, key)
    except (KeyError, IndexError, AttributeError, TypeError):
        raise MisfitError(_missing_output(tree, key, what)) from None


def _missing_output(tree: Any, key: Any, what: str) -> str:
    if isinstance(tree, Mapping):
        contents = f"the keys {list(tree)}"
    elif isinstance(tree, (tuple, list)):
        contents = f"{len(tree)} part{'s' * (len(tree) != 1)}"
    else:
        contents = f"one {type(tree).__name__}"
    return f"there is a loss for output {key!r}, but {what} {contents}; use their names in loss_fn"
