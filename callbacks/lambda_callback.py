"""Hooks out of functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from .base import Callback
from .hooks import HOOKS


class LambdaCallback(Callback):
    """A callback made of functions, as Keras'.

    Args:
        **hooks: Each hook by its name: `on_epoch_end=lambda epoch, logs: ...`.

    Raises:
        TypeError: There is no hook of that name, or it can't be called.

    Example:
        >>> from fitorch.callbacks import LambdaCallback
        >>> shout = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["val_loss"]))
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        given: dict[str, Any] = hooks
        for name, function in given.items():
            if name not in HOOKS:
                close = difflib.get_close_matches(name, HOOKS, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                message = f"there is no hook {name!r}{hint}; there are {', '.join(HOOKS)}"
                raise TypeError(message)
            if function is None:
                continue
            if not callable(function):
                message = f"{name} is {function!r}, a {type(function).__name__}; pass a function"
                raise TypeError(message)
            setattr(self, name, function)
