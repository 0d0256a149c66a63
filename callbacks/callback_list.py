"""CallbackList: several callbacks as one, for hand-written loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .base import Callback, Logs
from .hooks import Hooks, emit, emit_all, with_four_hooks
from .monitor import added_columns


class CallbackList(Callback):
    """Several callbacks as one, for a hand-written loop.

    Unlike Keras' list, it adds neither a history nor a progress display.

    Args:
        callbacks: Objects with the hooks of Keras or torchkeras.
        model: The value of the callbacks' `self.model`: a `KerasModel`, or what they expect.
        **params: The values of the callbacks' `self.params`: `epochs`, `steps`, `verbose`.

    Raises:
        TypeError: An object does not have any of the hooks, or a hook has the wrong signature.

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
        """The columns that the callbacks add to the logs of epochs."""
        return tuple(name for callback in self.callbacks for name in added_columns(callback))

    def append(self, callback: Any) -> None:
        """Append a callback."""
        self.callbacks += with_four_hooks([callback])
        # All hooks are collected again, because their order is that of the callbacks.
        self._hooks = Hooks.collect(self.callbacks)

    def set_params(self, params: dict[str, Any]) -> None:
        """Set the parameters of the run for all callbacks."""
        super().set_params(params)
        self._call_setters("set_params", params)

    def set_model(self, model: Any) -> None:
        """Set the model for all callbacks."""
        super().set_model(model)
        self._call_setters("set_model", model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_train_begin, logs or {})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run the hook of each callback, also after one that raised an error."""
        emit_all(self._hooks.on_train_end, logs or {})

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_epoch_begin, epoch, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        # An empty dict of the caller is passed on: callbacks add their columns to it.
        emit(self._hooks.on_epoch_end, epoch, {} if logs is None else logs)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_train_batch_begin, batch, logs or {})

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_train_batch_end, batch, logs or {})

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_test_begin, logs or {})

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_test_end, logs or {})

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_test_batch_begin, batch, logs or {})

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_test_batch_end, batch, logs or {})

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_predict_begin, logs or {})

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_predict_end, logs or {})

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_predict_batch_begin, batch, logs or {})

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run the hook of each callback."""
        emit(self._hooks.on_predict_batch_end, batch, logs or {})

    def _call_setters(self, name: str, value: Any) -> None:
        for callback in self.callbacks:
            setter = getattr(callback, name, None)
            if setter is not None:
                setter(value)


def flatten_callbacks(callbacks: Iterable[Any]) -> Iterator[Any]:
    """Yield the callbacks, with those in a `CallbackList` one by one."""
    for callback in callbacks:
        if isinstance(callback, CallbackList):
            yield from flatten_callbacks(callback.callbacks)
        else:
            yield callback


def on_every_process(callbacks: Iterable[Any]) -> list[Any]:
    """Return the callbacks that run on every process: all without `main_process_only = True`."""
    flat = flatten_callbacks(callbacks)
    return [c for c in flat if getattr(c, "main_process_only", False) is not True]
