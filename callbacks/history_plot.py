"""Draw the history to a file at the end of training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .base import Callback, Logs

if TYPE_CHECKING:
    pass


class HistoryPlot(Callback):
    """Draws the history to a file at the end of training, whatever ended it.

    Args:
        path: The file; its suffix decides the format. Where it can't be written, a warning says so
            and training's result is kept.
        figsize: Width and height in inches; None for what the panels need.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, path: Path, figsize: tuple[float, float] | None = None) -> None:
        self.path = path
        self.figsize = figsize

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw."""
        if not len(self.model.history):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.model.history.plot(self.path, figsize=self.figsize)
        except Exception as error:  # training is done: no picture is a reason to lose it
            warnings.warn(f"no plot at {self.path}: {error}", stacklevel=2)
