"""Adapter for torchkeras' callbacks, which have four hooks."""

from __future__ import annotations

from typing import Any

from .base import Callback, Logs

FOUR_HOOKS = ("on_fit_start", "on_train_epoch_end", "on_validation_epoch_end", "on_fit_end")


class FourHooks(Callback):
    """A callback of torchkeras, run by the hooks of Keras' protocol.

    torchkeras' hooks take the model: `on_fit_start(model)` runs before the first epoch,
    `on_train_epoch_end(model)` after the training of an epoch, `on_validation_epoch_end(model)`
    after its validation, and `on_fit_end(model)` at the end. Hooks of Keras that the object has
    too run by themselves.

    Args:
        callback: An object with one or more of the four hooks.
    """

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        # Whether on_train_epoch_end has run in this epoch; an evaluation outside of an epoch does
        # not run it.
        self._trained = True
        self._validated = False  # whether this epoch has had a validation

    @property
    def main_process_only(self) -> bool:
        """Whether the callback runs on the main process only."""
        return getattr(self.callback, "main_process_only", False) is True

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run `on_fit_start`."""
        self._call("on_fit_start")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Reset the flags of the epoch."""
        self._trained = self._validated = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run `on_train_epoch_end`: the validation follows the training of the epoch."""
        self._end_training()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Record that the epoch was validated."""
        self._validated = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run `on_train_epoch_end`, unless it has run, and `on_validation_epoch_end`."""
        self._end_training()
        if self._validated:
            self._call("on_validation_epoch_end")

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run `on_fit_end`."""
        self._call("on_fit_end")

    def _end_training(self) -> None:
        # Several validation sets call on_test_begin several times.
        if not self._trained:
            self._trained = True
            self._call("on_train_epoch_end")

    def _call(self, name: str) -> None:
        hook = getattr(self.callback, name, None)
        if hook is not None:
            hook(model=self.model)
