"""Training steps of one of several processes, each of which holds a part of every weight."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fitorch.distributed.dtensor import local
from fitorch.losses.terms import Part

from .joint import TellingStep


class ShardedStep(TellingStep):
    """A training step for a net that FSDP2 spreads over the processes.

    FSDP2 gathers the weights of each block before they are used, and hands each process the sum of
    its part of the gradients.
    """

    def _begin(self, batch: Any) -> None:
        super()._begin(batch)
        self.update.zero_grad()

    def _syncing(self, *, closes: bool) -> AbstractContextManager[Any]:
        net: Any = self._measures.net
        net.set_requires_gradient_sync(closes)
        return nullcontext()

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        if not self._counts and self.objective.penalties:
            with torch.no_grad():
                self.objective.penalize(parts)  # the others wait for this process' shards
        super()._record(y_pred, y_true, weight, parts)

    def _backward(self, total: Tensor, wants: float, part: Any) -> None:
        self.update.backward(total)
        self._note(total, wants, part)

    def _gradients(self) -> list[Tensor]:
        return [local(gradient) for gradient in super()._gradients()]
