"""Evaluation with a sharded net: no process can run it alone, so all take as many batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fitorch.distributed.fsdp import is_sharded
from fitorch.distributed.processes import Processes
from fitorch.tree import map_tensors

from .stage import Step


class CollectiveStep(Step, Protocol):
    """A step whose net several processes have to run together.

    Attributes:
        processes: The processes.
    """

    processes: Processes

    def run_only(self, batch: Any) -> None:
        """Run the net on a batch without counting it."""


class _StandIn:
    """A batch of this or another process, on which the net is run for the sake of the others."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class Lockstep:
    """A step that runs the net on batches that stand in, and counts the others.

    Args:
        step: What to do with a batch of this process.
        device: Where batches lie.
    """

    def __init__(self, step: CollectiveStep, device: torch.device) -> None:
        self._step = step
        self._device = device
        self.logs = step.logs
        self.done = False  # the batches end for all at once

    def __call__(self, batch: Any) -> None:
        """Take a batch."""
        if isinstance(batch, _StandIn):
            self._step.run_only(batch.batch)
        else:
            self._step(batch)

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch.batch if isinstance(batch, _StandIn) else batch

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Give this process' batches, and others that stand in while the other processes have some.

        All end where one wants to.
        """
        gather, last = self._step.processes.gather, None
        while True:
            batch = next(batches, None)
            rounds = gather((batch is not None, self._step.done))
            have = [has for has, _ in rounds]
            if not any(have) or any(wants for _, wants in rounds):
                return
            if last is None and not all(have):
                first = have.index(True)
                own = map_tensors(Tensor.cpu, batch)
                sent = gather(own if self._step.processes.rank == first else None)
                last = map_tensors(partial(Tensor.to, device=self._device), sent[first])
            last = last if batch is None else batch
            yield _StandIn(last) if batch is None else batch


def in_lockstep(net: nn.Module, step: Any, batches: Iterator[Any]) -> tuple[Step, Iterator[Any]]:
    """Return step and batches as they are, or where the net is sharded, as all can take them."""
    if not is_sharded(net):
        return step, batches
    lockstep = Lockstep(step, next(net.parameters()).device)
    return lockstep, lockstep.batches(batches)
