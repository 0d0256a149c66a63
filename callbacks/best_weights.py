"""Keep the weights of the best epoch, in memory and in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitorch.checkpoint.weights import BEST, metadata_of

from .base import Logs
from .kept_weights import KeptWeights
from .monitor import MonitorCallback


class BestWeights(MonitorCallback):
    """Give net and loss the weights of the best epoch at the end, whatever ended training.

    Args:
        monitor: The figure to watch.
        mode: "min", "max" or "auto".
        folder: Where to write `best.safetensors` each time the figure improves, with epoch (from
            1), monitor and value in its metadata; None writes nothing. A file that an earlier fit
            left there is replaced only by a better one.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", folder: str | Path | None = None
    ) -> None:
        super().__init__(monitor, mode)
        self.folder = None if folder is None else Path(folder)
        self._best = KeptWeights()
        self._in_file = math.nan

    def forget(self) -> None:
        """Forget an earlier fit."""
        super().forget()
        self._best.forget()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Look what is in the file; where a fit is gone on with, write what was best until then."""
        goes_on = self._restored
        super().on_train_begin(logs)
        self._in_file = math.nan
        told = {} if self.folder is None else metadata_of(self.folder / BEST)
        told = self.model.placement.processes.broadcast(told)  # it may be moving an old one away
        if not goes_on and told.get("monitor") == self.monitor:
            self._in_file = float(told["value"])
        if self.folder is not None and self._best.states is not None and told != self._metadata():
            self.model.save_states(self._best.states, self.folder / BEST, self._metadata())

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep the weights where the figure is better than ever."""
        value = self.value_in(logs)
        if value is None or not self.watched.improves(value, epoch):
            return
        self._best.keep(self.model)
        worse = value >= self._in_file if self.watched.mode == "min" else value <= self._in_file
        if self.folder is not None and not worse:
            self.model.save_ckpt(self.folder / BEST, metadata=self._metadata())

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restore them."""
        self._best.put_back(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been best, and the weights of net and loss."""
        return {**super().state_dict(), "weights": self._best.states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        super().load_state_dict(state)
        self._best.load(state["weights"])

    def _metadata(self) -> dict[str, str]:
        watched = self.watched
        epoch = 0 if watched.best_epoch is None else watched.best_epoch + 1
        return {"epoch": str(epoch), "monitor": self.monitor, "value": repr(watched.best)}
