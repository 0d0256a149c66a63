"""Callbacks of Keras that need a Keras model, refused before training in favour of ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_REPLACEMENTS = {  # those that only use hooks, logs and stop_training run unchanged
    "BackupAndRestore": "BackupAndRestore",
    "LearningRateScheduler": "LearningRateScheduler",
    "ModelCheckpoint": "ModelCheckpoint",
    "OrbaxCheckpoint": "ModelCheckpoint",
    "ReduceLROnPlateau": "ReduceLROnPlateau",
    "SwapEMAWeights": "EMA",
    "TensorBoard": "TensorBoardCallback",
}


def refuse_foreign(callbacks: Iterable[Any]) -> None:
    """Refuse callbacks of Keras that work on the weights or the optimizer of a Keras model.

    Raises:
        TypeError: There is one; it names ours.
    """
    for callback in callbacks:
        names = {kind.__name__ for kind in type(callback).__mro__ if _is_keras_class(kind)}
        if "CallbackList" in names:
            refuse_foreign(callback.callbacks)
            _disable_threads(callback)
        reason = _incompatibility(callback, names)
        if reason:
            message = f"keras.callbacks.{reason}"
            raise TypeError(message)


def _disable_threads(callbacks: Any) -> None:
    """Have Keras' list call its callbacks in this thread.

    Else it may do so in another one, for which our logs, read when somebody looks at them, have
    gone on meanwhile.
    """
    callbacks._async_train = callbacks._async_test = callbacks._async_predict = False


def _incompatibility(callback: Any, names: set[str]) -> str:
    """Say why a callback can't serve here, given the classes of Keras it is made of."""
    found = next((name for name in _REPLACEMENTS if name in names), None)
    if found is not None:
        return f"{found} needs a Keras model; ours is fitorch.callbacks.{_REPLACEMENTS[found]}"
    if "EarlyStopping" in names and callback.restore_best_weights:
        return (
            "EarlyStopping can't restore the weights of a net that is not Keras'; pass "
            "fitorch.callbacks.EarlyStopping(restore_best_weights=True), or patience to fit"
        )
    if "History" in names:
        return "History would replace model.history, which holds the figures already; leave it out"
    return ""


def _is_keras_class(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
