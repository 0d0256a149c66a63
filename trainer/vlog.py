"""The display of `fit` for training loops written by the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fitorch.callbacks.display.notebook import NotebookProgress
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.logs import EpochLogs
from fitorch.callbacks.monitor import check_mode
from fitorch.callbacks.plot_file import HistoryPlot
from fitorch.history.history import History

from .environment import in_notebook

if TYPE_CHECKING:
    import pandas as pd


class VLog:
    """Shows the progress of your own training loop in a terminal or a notebook, and its history.

    It has the interface of torchkeras' `VLog`, and works with hand-written loops, scikit-learn's
    `partial_fit`, callbacks of LightGBM and the like. In a notebook it draws a live plot.

    Args:
        epochs: The number of epochs, or None.
        monitor_metric: The metric whose best value is marked.
        monitor_mode: Whether "min" or "max" is best.
        save_path: The file for a plot of the history at the end; None for no plot.
        figsize: Width and height of the plot in inches; None for a size that fits.
        bar: Whether to show batches too, not only epochs.
        steps: The number of batches in an epoch, or None.

    Attributes:
        history: The `History`: `.frame`, `.best`, `.plot()`.

    Raises:
        ValueError: `monitor_mode` is neither "min" nor "max".

    Example:
        >>> from fitorch import VLog
        >>> log = VLog(epochs=2, monitor_metric="val_loss")
        >>> log.log_start()
        >>> for epoch in range(2):
        ...     for batch in range(3):
        ...         log.log_step({"train_loss": 1.0 / (epoch + 1)})
        ...     log.log_epoch({"train_loss": 0.5, "val_loss": 1.0 / (epoch + 1)})
        >>> frame = log.log_end()  # doctest: +ELLIPSIS
        epoch 1/2  train_loss 0.5000  val_loss 1.000 *  ...
        epoch 2/2  train_loss 0.5000  val_loss 0.5000 *  ...
        >>> list(frame)
        ['epoch', 'train_loss', 'val_loss', 'seconds']
    """

    def __init__(
        self,
        epochs: int | None = None,
        monitor_metric: str = "val_loss",
        monitor_mode: str = "min",
        save_path: str | Path | None = None,
        figsize: tuple[float, float] | None = None,
        bar: bool = True,
        steps: int | None = None,
    ) -> None:
        self.history = History()
        self.history.begin(monitor_metric, check_mode(monitor_mode), 0, sets=["val_"])
        self.save_path = save_path
        self.figsize = figsize
        self._epochs = epochs
        self._steps = steps
        self._display = self._make_display(monitor_metric, monitor_mode, bar)
        self._epoch = 0
        self._batch = 0
        self._open = False  # whether an epoch is running
        self._validating = False

    def log_start(self) -> None:
        """Start, or restart."""
        params = {"epochs": self._epochs, "steps": self._steps, "verbose": 1}
        self._display.set_params(params)
        model: Any = SimpleNamespace(history=self.history)  # all that a display reads of it
        self._display.set_model(model)
        self._display.on_train_begin()

    def log_step(self, info: Mapping[str, Any], training: bool = True) -> None:
        """Show a batch.

        Args:
            info: The metrics of the batch, or of the epoch so far, by name.
            training: Whether the batch is for training, otherwise for validation.
        """
        self._begin_epoch()
        if self._validating == training:
            self._validating, self._batch = not training, 0
            if not training:
                self._display.on_test_begin()
        shown = self._display.on_train_batch_end if training else self._display.on_test_batch_end
        shown(self._batch, dict(info))
        self._batch += 1

    def log_epoch(self, info: Mapping[str, Any]) -> None:
        """Record and show an epoch.

        Args:
            info: The metrics of the epoch by name, as `{"train_loss": 0.3, "val_loss": 0.4}`.
        """
        self._begin_epoch()
        if self._validating:
            self._display.on_test_end()
        logs = EpochLogs(info)
        self.history.on_epoch_end(self._epoch, logs)
        self._display.on_epoch_end(self._epoch, logs)
        self._epoch += 1
        self._open = self._validating = False

    def log_end(self) -> pd.DataFrame:
        """End the display, save the plot if there is a `save_path`, and return the history."""
        self._display.on_train_end()
        if self.save_path is not None:
            plot = HistoryPlot(Path(self.save_path), self.figsize)
            plot.set_model(self._display.model)
            plot.on_train_end()
        return self.history.frame

    def _begin_epoch(self) -> None:
        if not self._open:
            self._open, self._batch = True, 0
            self.history.on_epoch_begin(self._epoch)
            self._display.on_epoch_begin(self._epoch)

    @staticmethod
    def _make_display(monitor: str, mode: str, bar: bool) -> Progress:
        if in_notebook():
            return NotebookProgress(monitor=monitor, mode=mode, plot=True)
        return Progress(1 if bar else 2, monitor=monitor, mode=mode)
