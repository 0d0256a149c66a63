"""Stop when nothing gets better any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Logs
from .monitor import MonitorCallback
from .weight_snapshot import WeightSnapshot


class EarlyStopping(MonitorCallback):
    """Stop training once a monitored figure has not improved for `patience` epochs.

    Keras' callback, with four differences: NaN is never best (where nothing else is measured, the
    last weights stay); epochs that measure nothing new do not count; a run that stays behind its
    `baseline` stops too, the first epoch among others; and a figure that the fit will not measure
    is refused before training.

    Args:
        monitor: The figure to watch.
        min_delta: Improvements up to this much don't count.
        patience: Epochs without improvement after which training stops, at least 0; 0 stops at
            the first.
        verbose: Kept for Keras; the reason is always in `stopping_reason`.
        mode: "min", "max" or "auto".
        baseline: A value to beat by more than `min_delta`; improvements that stay behind it don't
            reset the patience.
        restore_best_weights: At the end, whatever ended training, give net and loss the weights
            of the best epoch.
        start_from_epoch: Epochs to leave out at the beginning, while figures still jump.

    Attributes:
        stopped_epoch: The epoch (from 0) after which training was stopped, else 0.
        stopping_reason: Why, in a sentence, else "".

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
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self._best = WeightSnapshot()
        self.forget()

    def forget(self) -> None:
        """Forget an earlier fit."""
        super().forget()
        self.wait = 0
        self.stopped_epoch = 0
        self.stopping_reason = ""
        self._best.clear()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Count the epoch as better or not, and stop when patience is at its end."""
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
        """Restore the best weights where asked for."""
        if self.restore_best_weights:
            self._best.restore(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been best, and how long ago."""
        return {**super().state_dict(), "wait": self.wait, "weights": self._best.states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
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
