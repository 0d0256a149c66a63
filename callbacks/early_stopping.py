"""EarlyStopping: a callback that stops training when a monitored value no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitorch.checks import check_flag

from .base import Logs
from .monitor import MonitorCallback
from .weight_snapshot import WeightSnapshot


class EarlyStopping(MonitorCallback):
    """Stop training if a monitored value has not improved for `patience` epochs.

    It is Keras' callback with four differences. NaN is never the best value; if all values are NaN,
    the last weights stay. Epochs without a new value do not count. A run that never beats
    `baseline` stops too, with the first epoch counted. A column that the fit does not measure
    raises an error before training.

    Args:
        monitor: The column to monitor.
        min_delta: The smallest change that counts as an improvement; it must be exceeded.
        patience: The number of epochs without improvement after which training stops, at least 0;
            0 stops at the first.
        verbose: Accepted for compatibility with Keras; the reason is in `stopping_reason`.
        mode: "min", "max" or "auto".
        baseline: A value to beat by more than `min_delta`; improvements that do not beat it do not
            reset the patience.
        restore_best_weights: Whether to restore the weights of net and loss of the best epoch at
            the end of training, also after an error.
        start_from_epoch: The number of epochs to ignore at the beginning, as a warm-up.

    Attributes:
        stopped_epoch: The epoch (counted from 0) after which training was stopped, else 0.
        stopping_reason: The reason for the stop, else "".

    Raises:
        ValueError: `mode` or `patience` is out of range.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if patience < 0:
            message = f"patience is {patience}; expected a number of epochs >= 0"
            raise ValueError(message)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = check_flag("restore_best_weights", restore_best_weights)
        self.start_from_epoch = start_from_epoch
        self._best = WeightSnapshot()
        self.forget()

    def forget(self) -> None:
        """Discard the state of an earlier fit."""
        super().forget()
        self.wait = 0
        self.stopped_epoch = 0
        self.stopping_reason = ""
        self._best.clear()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Update the best value, and stop when the patience is exhausted."""
        value = self.value_in(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.watched.improves(value, epoch):
            if self.restore_best_weights:
                self._best.take(self.model)
            if self._beats_baseline(value):
                self.wait = 0
                return
        self.wait += 1
        if self.wait >= self.patience:
            self._stop(epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restore the best weights if `restore_best_weights` is True."""
        if self.restore_best_weights:
            self._best.restore(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its epoch and weights, and the epochs without improvement."""
        return {**super().state_dict(), "wait": self.wait, "weights": self._best.states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.wait = state["wait"]
        self._best.load(state["weights"])

    def _beats_baseline(self, value: float) -> bool:
        if self.baseline is None:
            return True
        sign, delta = (1 if self.watched.mode == "min" else -1), self.watched.min_delta
        return sign * value < sign * self.baseline - delta

    def _stop(self, epoch: int) -> None:
        self.stopped_epoch = epoch
        self.stopping_reason = (
            f"{self.monitor} did not improve for {self.wait} epoch{'s' if self.wait > 1 else ''}"
        )
        self.model.stop_training = True
