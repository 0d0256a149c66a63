"""The update of the weights by DeepSpeed, of which each process computes a part."""

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
        zero_optimizer: The optimizer, whose state DeepSpeed partitions over the processes.
        *args: As for `Update`, without its optimizer.

    Attributes:
        divisor: The number that divides the gradients of this update.
    """

    divisor: float = 1.0

    def __init__(self, zero_optimizer: ZeroOptimizer, *args: Any) -> None:
        super().__init__(zero_optimizer.optimizer, *args)
        self.stored = self.zero_optimizer = zero_optimizer
        # DeepSpeed clips and steps by itself; `Update` is left with counting and the schedule.
        self._step = self._zero_step

    def backward(self, loss: Tensor) -> None:
        """Let DeepSpeed add the gradients of `loss` to the accumulated ones."""
        self.zero_optimizer.engine.backward(loss)

    def collect(self) -> None:
        """Collect the optimizer's state from the processes; all of them must call this."""
        self.zero_optimizer.collect()

    def close(self) -> None:
        """Close the engine; after an error the processes cannot gather the optimizer state."""
        super().close()
        # After a regular end, `collect` has emptied the engine.
        if self.zero_optimizer.holds:
            warnings.warn(
                f"the fit failed after {self.completed} updates, and lost the state of the "
                "optimizer, which DeepSpeed had partitioned; the next fit starts with a new state, "
                "or resumes a checkpoint with resume=True",
                stacklevel=2,
            )
        self.zero_optimizer.close()

    def _zero_step(self) -> None:
        self.zero_optimizer.step(self.divisor)
        # The user's optimizer was not stepped itself, about which schedules would warn.
        mark_stepped(self.optimizer)
