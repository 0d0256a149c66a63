"""Keep the weights of the best epoch, in memory and in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .base import Logs
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
        self._weights: list[dict[str, Any]] | None = None  # of the net, and of the loss

    def forget(self) -> None:
        """Forget an earlier fit."""
        super().forget()
        self._weights = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep the weights where the figure is better than ever."""
        value = self.value_in(logs)
        if value is None or not self.watched.improves(value, epoch):
            return
        self._keep()
        if self.folder is not None:
            metadata = {"epoch": str(epoch + 1), "monitor": self.monitor, "value": repr(value)}
            self.model.save_ckpt(self.folder / "best.safetensors", metadata=metadata)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restore them."""
        if self._weights is not None:
            for module, weights in zip(self._modules(), self._weights, strict=True):
                module.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been best, and the weights."""
        return {**super().state_dict(), "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        super().load_state_dict(state)
        weights = state["weights"]
        self._weights = None if weights is None else [_copies(each) for each in weights]

    def _modules(self) -> tuple[nn.Module, nn.Module]:
        return self.model.net, self.model.objective.module

    def _keep(self) -> None:
        """Copy the weights, into the memory of the last copy where there is one."""
        states = [module.state_dict() for module in self._modules()]
        if self._weights is None or [*map(list, self._weights)] != [*map(list, states)]:
            self._weights = [_copies(state) for state in states]
            return
        for kept, state in zip(self._weights, states, strict=True):
            _overwrite(kept, state)


def _copies(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(value) for name, value in state.items()}


@torch.no_grad()
def _overwrite(kept: dict[str, Any], state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            kept[name].copy_(value)
        else:
            kept[name] = value


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
