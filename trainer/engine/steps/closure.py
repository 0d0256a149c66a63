"""The step of optimizers that evaluate the loss of an update several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fitorch.nets.state import buffers_restored
from fitorch.optim.closure_update import ClosureUpdate
from fitorch.randomness import random_state, set_random_state, undisturbed_randomness

from .accumulation import AccumulatingStep, MicroBatch


class ClosureStep(AccumulatingStep):
    """Updates the weights once per window of batches, which the optimizer may evaluate again.

    Each evaluation of a window begins with the same random numbers and the same buffers, as the
    statistics of batch norms. Training goes on from those after the first evaluation, and its
    figures alone are counted.

    Args:
        *args: As for `AccumulatingStep`.
        window: Batches of an update.
    """

    def __init__(self, *args: Any, window: int) -> None:
        super().__init__(*args, window=window)
        self._batches: list[MicroBatch] = []
        self._random: dict[str, Any] = {}
        self._buffers: list[tuple[Tensor, Tensor]] = []  # of net and loss, with copies
        self._losses: list[Tensor] = []

    def __call__(self, batch: MicroBatch) -> None:
        """Train on a batch, and update the weights at the end of its window."""
        _refuse_iterators(self.user_batch(batch))
        if not self._open:
            self._begin_window()
        self._batches.append(batch)
        super().__call__(batch)

    def _begin_window(self) -> None:
        self._batches, self._losses = [], []
        self._random = random_state(self.measurement.spec.placement.device)
        self._buffers = [(b, b.clone()) for module in self._modules for b in module.buffers()]

    @property
    def _modules(self) -> tuple[nn.Module, nn.Module]:
        return self.measurement.net, self.measurement.objective.module

    def _finish(self) -> None:
        update = cast("ClosureUpdate", self.update)
        update.provide(self._loss(), self._evaluate)
        update()

    def _backward(self, total: Tensor) -> None:
        self._losses.append(total.detach())
        super()._backward(total)

    def _loss(self) -> Tensor:
        """Return the loss of the window: the sum of those of its batches, divided as they are."""
        loss: Tensor = sum(self._losses[1:], start=self._losses[0]) / self._divisor
        return loss

    def _evaluate(self) -> Tensor:
        """Compute the gradients of the window again, and return its loss."""
        self._losses = []
        with self._replaying():
            self.update.zero_grad()
            for batch in self._batches:
                self._accumulate(batch)
            self._divide()
        return self._loss()

    @contextmanager
    def _replaying(self) -> Iterator[None]:
        device, measurement = self.measurement.spec.placement.device, self.measurement
        with undisturbed_randomness(), buffers_restored(*self._modules), torch.enable_grad():
            set_random_state(self._random, device)
            with torch.no_grad():
                for buffer, before in self._buffers:
                    buffer.copy_(before)
            measurement.counts = False
            try:
                yield
            finally:
                measurement.counts = True


def _refuse_iterators(batch: Any) -> None:
    """Raise an error for batches that can be read only once.

    Raises:
        TypeError: A part of the batch is an iterator.
    """
    parts = batch.values() if isinstance(batch, Mapping) else batch
    parts = [batch, *parts] if isinstance(parts, (list, tuple)) else [batch]
    if any(isinstance(part, Iterator) for part in parts):
        message = (
            "a batch has an iterator, which can be read only once, but the optimizer evaluates a "
            "batch several times; make it a list or a tensor"
        )
        raise TypeError(message)
