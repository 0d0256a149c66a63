"""What terms and losses are called: in columns, in messages, in a formula."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .term import Term


def names_of(terms: Iterable[Term], taken: Iterable[str] = ()) -> list[str]:
    """Return a name for each term that no other has.

    A loss of one output is called after the output. A name that a metric has gets `_loss` added;
    equal names are numbered: `l1`, `l1_2`.

    Args:
        terms: The terms.
        taken: The metrics' names.
    """
    terms, taken, names = list(terms), set(taken), list[str]()
    outputs = [term.output for term in terms]
    for term in terms:
        name = term.name or _own_name(term, alone=outputs.count(term.output) == 1)
        name = f"{name}_loss" if name in taken else name
        candidates = _numbered(name)
        names.append(next(c for c in candidates if c not in {*names, *taken, "loss"}))
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _own_name(term: Term, *, alone: bool) -> str:
    keys = [f"output_{key}" if isinstance(key, int) else str(key) for key in term.output]
    return "_".join(keys if keys and alone else [*keys, _short(term.fn)]).replace(".", "_")


def _short(fn: Any) -> str:
    """Return `focal` for a FocalLoss, `bce_with_logits` for a BCEWithLogitsLoss."""
    while isinstance(fn, partial):
        fn = fn.func
    if inspect.isroutine(fn):
        name = fn.__name__
    else:
        kind = type(fn).__name__.removesuffix("WithLoss").removesuffix("Loss")
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()
    return "custom" if name in ("<lambda>", "loss", "") else name


def called(loss: Any) -> str:
    """Return what to call a loss in a message: `MSELoss`, `my_loss`."""
    while isinstance(loss, partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def write(fn: Any) -> str:
    """Write a loss, a penalty or a schedule as it stands in a formula."""
    if inspect.isroutine(fn):
        return str(fn.__name__)
    if isinstance(fn, partial):
        return write(fn.func)
    text = repr(fn)
    return text if "\n" not in text and "object at 0x" not in text else f"{type(fn).__name__}(...)"
