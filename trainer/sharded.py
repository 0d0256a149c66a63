"""Training steps of one of several processes, each of which holds a part of every weight."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed

from fitorch.losses.terms import Part

from .joint import JointStep
from .shards import local


class ShardedStep(JointStep):
    """A training step for a net that FSDP2 spreads over the processes.

    FSDP2 gathers the weights of each block before they are used, and hands each process the sum of
    its part of the gradients. What processes count and want goes in a message of its own, one an
    update.
    """

    def _begin(self, batch: Any) -> None:
        self.update.zero_grad()
        self._told: list[list[Any]] = []

    def _syncing(self, *, closes: bool) -> AbstractContextManager[Any]:
        net: Any = self._measures.net
        net.set_requires_gradient_sync(closes)
        return nullcontext()

    def _forward(self, batch: Any) -> list[Part]:
        parts = self.measure(batch)
        if self._apart is None:
            self._refer(parts)
        return parts

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        if not self._counts and self.objective.penalties:
            with torch.no_grad():
                self.objective.penalize(parts)  # the others wait for this process' shards
        super()._record(y_pred, y_true, weight, parts)

    def _backward(self, total: Tensor, wants: float, part: Any) -> None:
        self.update.backward(total)
        self._told.append([wants, part])
        self._like = total

    def _gradients(self) -> list[Tensor]:
        return [local(gradient) for gradient in super()._gradients()]

    def _answer(self) -> Tensor:
        dtype = torch.promote_types(self._like.dtype, torch.float32)
        answer = torch.zeros(2, dtype=dtype, device=self._like.device)
        for wants, part in self._told:
            answer[0] += wants
            answer[1] += part
        distributed.all_reduce(answer)
        return answer / self.processes.count
