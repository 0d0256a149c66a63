"""Names of the columns of an objective's terms."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from .term import Term


def names_of(terms: Iterable[Term], taken: Iterable[str] = ()) -> list[str]:
    """Return a unique name for each term.

    A loss that is the only one of its output has the output's name. A name that a metric already
    has gets the suffix `_loss`; equal names are numbered: `l1`, `l1_2`.

    Args:
        terms: The terms.
        taken: The names of the metrics.
    """
    terms, taken, names = list(terms), set(taken), list[str]()
    outputs = [term.output for term in terms]
    for term in terms:
        name = term.name or _default_name(term, alone=outputs.count(term.output) == 1)
        # A metric of the same name would have the same column.
        name = f"{name}_loss" if name in taken else name
        candidates = _numbered(name)
        # "loss" is the column of the whole objective.
        names.append(next(c for c in candidates if c not in {*names, *taken, "loss"}))
    return names


def _numbered(name: str) -> Iterator[str]:
    """Yield `name`, `name_2`, `name_3`, ..."""
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _default_name(term: Term, *, alone: bool) -> str:
    keys = [f"output_{key}" if isinstance(key, int) else str(key) for key in term.output]
    return "_".join(keys if keys and alone else [*keys, _short_name(term.fn)]).replace(".", "_")


def _short_name(fn: Any) -> str:
    """Return `focal` for a FocalLoss, `bce_with_logits` for a BCEWithLogitsLoss."""
    while isinstance(fn, partial):
        fn = fn.func
    if inspect.isroutine(fn):
        name = fn.__name__
    else:
        stem = type(fn).__name__.removesuffix("WithLoss").removesuffix("Loss")
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()
    return "custom" if name in ("<lambda>", "loss", "") else name
