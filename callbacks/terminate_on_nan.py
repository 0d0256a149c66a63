"""Stop, instead of failing, where the loss is NaN or infinite."""

from __future__ import annotations

from .base import Callback, Logs


class TerminateOnNaN(Callback):
    """End a fit whose training loss is NaN or infinite as one that was stopped.

    Without it `fit` raises a `NonFiniteError`. With it the epoch is given up, the best weights are
    restored, and `fit` returns the history of the epochs before. (Keras counts the epoch as one.)

    Args:
        raise_error: Raise after all, as without this callback. Unlike in Keras, `on_train_end` of
            all callbacks is called then too.

    Attributes:
        stopping_reason: Which term of the loss it was, in which batch of which epoch, else "".
    """

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error
        self.stopping_reason = ""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier fit."""
        self.stopping_reason = ""

    def on_nonfinite(self, error: ArithmeticError) -> bool:
        """Receive the error that would end the fit; say whether it was dealt with."""
        if self.raise_error:
            return False
        self.stopping_reason = str(error)
        self.model.stop_training = True
        return True
