"""Callbacks in a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .base import Callback, Logs
from .hooks import Hooks, emit, emit_all, with_keras_hooks
from .monitor import added_columns


class CallbackList(Callback):
    """Several callbacks as one, for a hand-written loop.

    Unlike Keras' list it adds neither a history nor a progress display; `fit` has its own.

    Args:
        callbacks: Objects with Keras' hooks, or torchkeras'.
        model: What callbacks get as `self.model`: a `KerasModel`, or whatever they expect.
        **params: What they get as `self.params`: `epochs`, `steps`, `verbose`.

    Raises:
        TypeError: An object has none of the hooks, or a hook has the wrong signature.

    Example:
        >>> from fitorch.callbacks import CallbackList, LambdaCallback
        >>> callbacks = CallbackList(
        ...     [LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))], epochs=2
        ... )
        >>> callbacks.on_train_begin()
        >>> for epoch in range(2):
        ...     callbacks.on_epoch_begin(epoch)
        ...     callbacks.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1)})
        0 {'loss': 1.0}
        1 {'loss': 0.5}
        >>> callbacks.on_train_end()
    """

    def __init__(
        self, callbacks: Iterable[Any] | None = None, model: Any = None, **params: Any
    ) -> None:
        self.callbacks: list[Any] = []
        self._hooks = Hooks()
        self.params = params
        for callback in callbacks or ():
            self.append(callback)
        if params:
            self.set_params(params)
        if model is not None:
            self.set_model(model)

    @property
    def adds(self) -> tuple[str, ...]:
        """The figures that they add to the logs of epochs."""
        return tuple(name for callback in self.callbacks for name in added_columns(callback))

    def append(self, callback: Any) -> None:
        """Add a callback as the last."""
        self.callbacks.append(with_keras_hooks(callback))
        self._hooks = Hooks.collect(self.callbacks)

    def set_params(self, params: dict[str, Any]) -> None:
        """Tell the callbacks what the loop is about to do."""
        super().set_params(params)
        self._receive("set_params", params)

    def set_model(self, model: Any) -> None:
        """Tell the callbacks whom they serve."""
        super().set_model(model)
        self._receive("set_model", model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_train_begin, logs or {})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Call it, each also after one that raised."""
        emit_all(self._hooks.on_train_end, logs or {})

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_epoch_begin, epoch, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_epoch_end, epoch, {} if logs is None else logs)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_train_batch_begin, batch, logs or {})

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_train_batch_end, batch, logs or {})

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_test_begin, logs or {})

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_test_end, logs or {})

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_test_batch_begin, batch, logs or {})

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_test_batch_end, batch, logs or {})

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_predict_begin, logs or {})

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_predict_end, logs or {})

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_predict_batch_begin, batch, logs or {})

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Call it."""
        emit(self._hooks.on_predict_batch_end, batch, logs or {})

    def _receive(self, verb: str, value: Any) -> None:
        for callback in self.callbacks:
            receive = getattr(callback, verb, None)
            if receive is not None:
                receive(value)


def flatten_callbacks(callbacks: Iterable[Any]) -> Iterator[Any]:
    """Give the callbacks, those in a list of callbacks one by one."""
    for callback in callbacks:
        if isinstance(callback, CallbackList):
            yield from flatten_callbacks(callback.callbacks)
        else:
            yield callback


def on_every_process(callbacks: Iterable[Any]) -> list[Any]:
    """Return the callbacks that are not for the main process alone, which writes and draws."""
    each = flatten_callbacks(callbacks)
    return [c for c in each if getattr(c, "main_process_only", False) is not True]
