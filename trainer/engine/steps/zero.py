"""Training steps of one of several processes, with an update that DeepSpeed spreads over them."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from fitorch.distributed.zero_optimizer import PartitionedOptimizer
from fitorch.losses.terms import Part
from fitorch.optim.update import Update

from .joint import TellingStep


class PartitionedUpdate(Update):
    """An update that DeepSpeed makes, of which each process makes a part.

    Args:
        partitioned: The optimizer.
        *args: As for `Update`, but for its optimizer.
    """

    divisor: float = 1.0  # of the gradients

    def __init__(self, partitioned: PartitionedOptimizer, *args: Any) -> None:
        super().__init__(partitioned.optimizer, *args)
        self.stored = self.partitioned = partitioned
        self._step = self._spread_step

    def backward(self, loss: Tensor) -> None:
        """Have DeepSpeed add the gradients of `loss` to those that are there."""
        self.partitioned.engine.backward(loss)

    def collect(self) -> None:
        """Take the optimizer's state back from DeepSpeed; all processes must call this."""
        self.partitioned.collect()

    def close(self) -> None:
        """Let go of DeepSpeed; after an error the processes can't put its state together."""
        super().close()
        if self.partitioned.holds:
            warnings.warn(
                f"the optimizer's state was lost with the fit that failed after {self.completed} "
                "updates, since DeepSpeed had spread it over the processes; another fit begins "
                "with a new one, and resume=True goes on from a checkpoint",
                stacklevel=2,
            )
        self.partitioned.close()

    def _spread_step(self) -> None:
        self.partitioned.step(self.divisor)
        self.optimizer._opt_called = True  # type: ignore[attr-defined] # for the schedule


class ZeroStep(TellingStep):
    """A training step whose backward and update are those of DeepSpeed's engine.

    The engine adds gradients up over the processes and keeps of them what each updates. So what
    would change gradients afterwards comes before: penalties are a part of the loss, and what the
    gradients of means are divided by goes into the update.
    """

    update: PartitionedUpdate

    def begin_epoch(self) -> None:
        """Have DeepSpeed train what callbacks have left to be trained."""
        self.update.partitioned.follow()
        module: Any = self.update.partitioned.module
        module.step = self

    def _begin(self, batch: Any) -> None:
        super()._begin(batch)
        self.update.divisor = 1.0

    def _syncing(self, *, closes: bool) -> AbstractContextManager[Any]:
        self._closes = closes
        self.update.partitioned.engine.set_gradient_accumulation_boundary(closes)
        return nullcontext()

    def _run(self, batch: Any) -> list[Part]:
        parts: list[Part] = self.update.partitioned.engine(batch)
        return parts

    def _backward(self, total: Tensor, wants: float, part: Any) -> None:
        self._note(total, wants, part)
        if self._closes:
            self._told_all = super()._answer()
            share = self._divisor(self._told_all[1])
            for penalty in self.objective.penalties:
                total = total + penalty() * share
        self.update.backward(total)

    def _answer(self) -> Tensor:
        return self._told_all

    def _divide(self, share: Any) -> None:
        self.update.divisor = self._divisor(share)

    def _divisor(self, share: Any) -> float:
        return 1.0 if self._sums else float(share) or 1.0
