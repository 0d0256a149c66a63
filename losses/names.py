"""Names of losses for messages, and their text in formulas."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any


def loss_name(loss: Any) -> str:
    """Return the name of a loss for messages: `MSELoss`, `my_loss`."""
    while isinstance(loss, partial):
        loss = loss.func
    return getattr(loss, "__name__", type(loss).__name__)


def formula_of(fn: Any) -> str:
    """Return the text of a loss, a penalty or a schedule in a formula: `FocalLoss(gamma=2)`."""
    if inspect.isroutine(fn):
        return str(fn.__name__)
    # The name of the function, without its arguments.
    if isinstance(fn, partial):
        return formula_of(fn.func)
    text = repr(fn)
    # The default repr has an address, and that of a module with children has several lines.
    return text if "\n" not in text and "object at 0x" not in text else f"{type(fn).__name__}(...)"
