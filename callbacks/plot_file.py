"""HistoryPlot: a callback that saves a plot of the history at the end of training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

from .base import Callback, Logs


class HistoryPlot(Callback):
    """Save a plot of the history to a file at the end of training, also after an error.

    Args:
        path: The file; its suffix determines the format. If it cannot be written, there is a
            warning, not an error.
        figsize: Width and height in inches; None depends on the number of plots.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(self, path: Path, figsize: tuple[float, float] | None = None) -> None:
        self.path = path
        self.figsize = figsize

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Save the plot, unless the history is empty."""
        if not len(self.model.history):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.model.history.plot(self.path, figsize=self.figsize)
        except Exception as error:  # the result of the training matters more
            warnings.warn(f"cannot save the plot {self.path}: {error}", stacklevel=2)
