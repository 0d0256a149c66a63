"""BestWeights: a callback that keeps the weights of the best epoch, in memory and in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitorch.checkpoint.weights import BEST, metadata_of

from .base import Logs
from .monitor import MonitorCallback
from .weight_snapshot import WeightSnapshot


class BestWeights(MonitorCallback):
    """Restore the weights of the best epoch at the end of training, also after an error.

    Args:
        monitor: The column to monitor.
        mode: "min", "max" or "auto".
        folder: The folder for `best.safetensors`, which is written when the monitored value
            improves, with epoch (counted from 1), monitor and value in its metadata. The file of an
            earlier fit is replaced only by a better one. None does not write a file.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", folder: str | Path | None = None
    ) -> None:
        super().__init__(monitor, mode)
        self.folder = None if folder is None else Path(folder)
        # The snapshot is in memory, because on_train_end restores it, with or without a folder.
        self._best = WeightSnapshot()
        self._value_in_file = math.nan

    def forget(self) -> None:
        """Discard the state of an earlier fit."""
        super().forget()
        self._best.clear()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Read the value in an existing file; in a resumed fit, write the restored best weights."""
        resumed = self._restored
        super().on_train_begin(logs)
        self._value_in_file = math.nan
        metadata = {} if self.folder is None else metadata_of(self.folder / BEST)
        # Synchronizes the processes: the main process may be moving an old file away, so that
        # only what it has read is valid.
        metadata = self.model.placement.processes.broadcast(metadata)
        # A resumed fit has the best value in its state; the file may be of a later epoch, which it
        # trains again.
        if not resumed and metadata.get("monitor") == self.monitor:
            self._value_in_file = float(metadata["value"])
        if (
            self.folder is not None
            and self._best.states is not None
            and metadata != self._metadata()
        ):
            self.model.save_states(self._best.states, self.folder / BEST, self._metadata())

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep the weights if the monitored value is the best so far."""
        value = self.value_in(logs)
        if value is None or not self.watched.improves(value, epoch):
            return
        # The copy uses the memory of the previous one; for weights on a device it stays there.
        self._best.take(self.model)
        # Comparisons with NaN are False, so that a file without a known value is replaced.
        worse = (
            value >= self._value_in_file
            if self.watched.mode == "min"
            else value <= self._value_in_file
        )
        if self.folder is not None and not worse:
            # The file is written and fsynced now: a crash must not lose the best weights.
            self.model.save_ckpt(self.folder / BEST, metadata=self._metadata())

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restore the best weights."""
        self._best.restore(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its epoch, and the best weights of net and loss."""
        return {**super().state_dict(), "weights": self._best.states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self._best.load(state["weights"])

    def _metadata(self) -> dict[str, str]:
        watched = self.watched
        epoch = 0 if watched.best_epoch is None else watched.best_epoch + 1
        return {"epoch": str(epoch), "monitor": self.monitor, "value": repr(watched.best)}
