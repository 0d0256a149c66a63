"""Checks for callbacks of Keras that need a Keras model, with their replacements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Callbacks of Keras that only use hooks, logs and `stop_training` run unchanged.
_REPLACEMENTS = {
    "BackupAndRestore": "BackupAndRestore",
    "LearningRateScheduler": "LearningRateScheduler",
    "ModelCheckpoint": "ModelCheckpoint",
    "OrbaxCheckpoint": "ModelCheckpoint",
    "ReduceLROnPlateau": "ReduceLROnPlateau",
    "SwapEMAWeights": "EMA",
    "TensorBoard": "TensorBoardCallback",
}


def refuse_foreign(callbacks: Iterable[Any]) -> None:
    """Check that no callback works on the weights or the optimizer of a Keras model.

    Raises:
        TypeError: A callback needs a Keras model; the message has the replacement.
    """
    for callback in callbacks:
        names = {cls.__name__ for cls in type(callback).__mro__ if _is_keras_class(cls)}
        if "CallbackList" in names:
            refuse_foreign(callback.callbacks)
            _disable_threads(callback)
        reason = _incompatibility(callback, names)
        if reason:
            message = f"keras.callbacks.{reason}"
            raise TypeError(message)


def _disable_threads(callbacks: Any) -> None:
    """Make a CallbackList of Keras run its callbacks in this thread.

    In another thread, the lazy logs of a batch could be read when later batches are part of them.
    """
    callbacks._async_train = callbacks._async_test = callbacks._async_predict = False


def _incompatibility(callback: Any, names: set[str]) -> str:
    """Return why a callback cannot run here, "" if it can.

    Args:
        callback: The callback.
        names: The names of its base classes in Keras.
    """
    name = next((name for name in _REPLACEMENTS if name in names), None)
    if name is not None:
        return f"{name} needs a Keras model; use fitorch.callbacks.{_REPLACEMENTS[name]}"
    if "EarlyStopping" in names and callback.restore_best_weights:
        return (
            "EarlyStopping cannot restore the weights of a net that is not a Keras model; pass "
            "fitorch.callbacks.EarlyStopping(restore_best_weights=True), or patience to fit"
        )
    if "History" in names:
        return "History would replace model.history, which has the same values; remove it"
    return ""


def _is_keras_class(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
