"""What terms and losses are called: in columns, in messages, in a formula."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any


def name_of(loss: Any) -> str:
    """Return what to call a loss in a message: `MSELoss`, `my_loss`."""
    while isinstance(loss, partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def formula_of(fn: Any) -> str:
    """Write a loss, a penalty or a schedule as it stands in a formula."""
    if inspect.isroutine(fn):
        return str(fn.__name__)
    if isinstance(fn, partial):
        return formula_of(fn.func)
    text = repr(fn)
    return text if "\n" not in text and "object at 0x" not in text else f"{type(fn).__name__}(...)"
