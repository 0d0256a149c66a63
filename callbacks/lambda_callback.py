"""LambdaCallback: a callback made of functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from .base import Callback
from .hooks import HOOKS

_KERAS_ALIASES = ("on_batch_begin", "on_batch_end")  # for the hooks of training batches

_Function = Callable[..., Any] | None


class LambdaCallback(Callback):
    """A callback made of functions, as in Keras.

    Args:
        on_epoch_begin: Called with `(epoch, logs)`.
        on_epoch_end: Called with `(epoch, logs)`.
        on_train_begin: Called with `(logs)`.
        on_train_end: Called with `(logs)`.
        on_train_batch_begin: Called with `(batch, logs)`.
        on_train_batch_end: Called with `(batch, logs)`.
        adds: Columns that the functions add to the logs of epochs, so that they can be monitored.
        **hooks: Any other hook by its name: `on_test_end=lambda logs: ...`.

    Raises:
        TypeError: A hook does not exist, or is not callable.

    Example:
        >>> from fitorch.callbacks import LambdaCallback
        >>> log = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["val_loss"]))
    """

    def __init__(
        self,
        on_epoch_begin: _Function = None,
        on_epoch_end: _Function = None,
        on_train_begin: _Function = None,
        on_train_end: _Function = None,
        on_train_batch_begin: _Function = None,
        on_train_batch_end: _Function = None,
        *,
        adds: Sequence[str] = (),
        **hooks: _Function,
    ) -> None:
        self.adds = (adds,) if isinstance(adds, str) else tuple(adds)
        functions: dict[str, Any] = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **hooks,
        }
        for name, function in functions.items():
            if name not in (*HOOKS, *_KERAS_ALIASES):
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
