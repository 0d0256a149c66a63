"""TerminateOnNaN: a callback that stops training at a NaN or infinite loss."""

from __future__ import annotations

from fitorch.checks import check_flag

from .base import Callback, Logs


class TerminateOnNaN(Callback):
    """Stop training at a NaN or infinite training loss, instead of raising an error.

    Without this callback, `fit` raises a `NonFiniteError`. With it, `fit` discards the epoch,
    restores the best weights, and returns the history of the epochs before. (Keras records the
    epoch.)

    Args:
        raise_error: Whether to raise the error nevertheless. Unlike in Keras, `on_train_end` of all
            callbacks runs in this case too.

    Attributes:
        stopping_reason: The term of the loss, the batch and the epoch of the value, else "".
    """

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = check_flag("raise_error", raise_error)
        self.stopping_reason = ""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the state of an earlier fit."""
        self.stopping_reason = ""

    def on_nonfinite(self, error: ArithmeticError) -> bool:
        """Return whether `fit` stops without an error.

        Args:
            error: The error that `fit` raises otherwise.
        """
        if self.raise_error:
            return False
        self.stopping_reason = str(error)
        self.model.stop_training = True
        return True
