"""The update that DeepSpeed makes, of which each process makes a part."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from fitorch.internals.torch import mark_stepped
from fitorch.optim.update import Update

from .optimizer import ZeroOptimizer


class ZeroUpdate(Update):
    """An update by DeepSpeed's engine.

    Args:
        spread: The optimizer, whose state DeepSpeed spreads over the processes.
        *args: As for `Update`, without its optimizer.

    Attributes:
        divisor: What the gradients of this update are divided by.
    """

    divisor: float = 1.0

    def __init__(self, spread: ZeroOptimizer, *args: Any) -> None:
        super().__init__(spread.optimizer, *args)
        self.stored = self.spread = spread
        self._step = self._spread_step

    def backward(self, loss: Tensor) -> None:
        """Let DeepSpeed add the gradients of `loss` to the accumulated ones."""
        self.spread.engine.backward(loss)

    def collect(self) -> None:
        """Collect the optimizer's state from the processes; all of them must call this."""
        self.spread.collect()

    def close(self) -> None:
        """Release DeepSpeed; after an error the processes cannot put its state together."""
        super().close()
        if self.spread.holds:
            warnings.warn(
                f"the optimizer's state was lost with the fit that failed after {self.completed} "
                "updates, since DeepSpeed had spread it over the processes; another fit begins "
                "with a new one, and resume=True goes on from a checkpoint",
                stacklevel=2,
            )
        self.spread.close()

    def _spread_step(self) -> None:
        self.spread.step(self.divisor)
        mark_stepped(self.optimizer)
