"""Keep the weights of the best epoch, in memory and in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Logs
from .kept_weights import KeptWeights
from .monitor import MonitorCallback


class BestWeights(MonitorCallback):
    """Give net and loss the weights of the best epoch at the end, whatever ended training.

    Args:
        monitor: The figure to watch.
        mode: "min", "max" or "auto".
        folder: Where to write `best.safetensors` each time the figure improves, with epoch (from
            1), monitor and value in its metadata; None writes nothing.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", folder: str | Path | None = None
    ) -> None:
        super().__init__(monitor, mode)
        self.folder = None if folder is None else Path(folder)
        self._best = KeptWeights()

    def forget(self) -> None:
        """Forget an earlier fit."""
        super().forget()
        self._best.forget()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep the weights where the figure is better than ever."""
        value = self.value_in(logs)
        if value is None or not self.watched.improves(value, epoch):
            return
        self._best.keep(self.model)
        if self.folder is not None:
            metadata = {"epoch": str(epoch + 1), "monitor": self.monitor, "value": repr(value)}
            self.model.save_ckpt(self.folder / "best.safetensors", metadata=metadata)

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
