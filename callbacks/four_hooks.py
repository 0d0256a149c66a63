"""torchkeras' callbacks, which have four hooks of their own."""

from __future__ import annotations

from typing import Any

from .base import Callback, Logs

FOUR_HOOKS = ("on_fit_start", "on_train_epoch_end", "on_validation_epoch_end", "on_fit_end")


class FourHooks(Callback):
    """A callback of torchkeras' kind, called at the events of Keras' protocol.

    Its hooks take the model: `on_fit_start(model)` before the first epoch,
    `on_train_epoch_end(model)` after an epoch's training, `on_validation_epoch_end(model)` after
    its validation and `on_fit_end(model)` at the end.

    Args:
        callback: Has one or more of the four.
    """

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self._trained = False  # whether the epoch's training was told
        self._validated = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Tell that a fit begins."""
        self._call("on_fit_start")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Begin an epoch."""
        self._trained = self._validated = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Tell that the training of the epoch is over."""
        self._end_training()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Remember that the epoch was validated."""
        self._validated = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Tell that training, and validation where it was due, are over."""
        self._end_training()
        if self._validated:
            self._call("on_validation_epoch_end")

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Tell that the fit is over."""
        self._call("on_fit_end")

    def _end_training(self) -> None:
        if not self._trained:
            self._trained = True
            self._call("on_train_epoch_end")

    def _call(self, name: str) -> None:
        hook = getattr(self.callback, name, None)
        if hook is not None:
            hook(model=self.model)
