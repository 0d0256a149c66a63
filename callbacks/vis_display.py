"""A function of one's own, called now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from .base import Callback, Logs


class VisDisplay(Callback):
    """Call a function every so many epochs, as to draw what the net makes of a few samples.

    torchkeras' callback.

    Args:
        display_fn: Called with the model.
        model: What to call it with instead, as the net.
        init_display: Whether to call it before the first epoch, too.
        dis_period: Epochs from one call to the next.

    Raises:
        TypeError: `display_fn` is no function.
        ValueError: `dis_period` is no number of epochs.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(
        self,
        display_fn: Callable[[Any], Any],
        model: Any = None,
        init_display: bool = True,
        dis_period: int = 1,
    ) -> None:
        given: Any = display_fn
        if not callable(given):
            message = f"display_fn is {given!r}, a {type(given).__name__}; expected a function"
            raise TypeError(message)
        if dis_period < 1:
            message = f"dis_period is {dis_period!r}; expected a number of epochs >= 1"
            raise ValueError(message)
        self.display_fn = display_fn
        self.init_display = init_display
        self.dis_period = dis_period
        self._shown = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Show what there is before training."""
        if self.init_display:
            self._show()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Show, where it is time."""
        if not (epoch + 1) % self.dis_period:
            self._show()

    def _show(self) -> None:
        self.display_fn(self.model if self._shown is None else self._shown)
