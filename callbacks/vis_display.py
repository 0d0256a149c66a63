"""VisDisplay: a callback that calls a function every few epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from .base import Callback, Logs


class VisDisplay(Callback):
    """Call a function every few epochs, for example to plot predictions for a few samples.

    It is compatible with torchkeras' callback.

    Args:
        display_fn: The function, called with the model.
        model: The argument for the function instead of the model, such as the net.
        init_display: Whether to call the function before the first epoch too.
        dis_period: The number of epochs between two calls.

    Raises:
        TypeError: `display_fn` is not callable.
        ValueError: `dis_period` is below 1.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(
        self,
        display_fn: Callable[[Any], Any],
        model: Any = None,
        init_display: bool = True,
        dis_period: int = 1,
    ) -> None:
        function: Any = display_fn
        if not callable(function):
            message = (
                f"display_fn is {function!r}, a {type(function).__name__}; expected a function"
            )
            raise TypeError(message)
        if dis_period < 1:
            message = f"dis_period is {dis_period!r}; expected a number of epochs >= 1"
            raise ValueError(message)
        self.display_fn = display_fn
        self.init_display = init_display
        self.dis_period = dis_period
        self._argument = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Call the function if `init_display` is True."""
        if self.init_display:
            self._show()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Call the function if it is due."""
        if not (epoch + 1) % self.dis_period:
            self._show()

    def _show(self) -> None:
        self.display_fn(self.model if self._argument is None else self._argument)
