"""Evaluation with a sharded net: all processes run the same number of batches.

The forward pass of a sharded net is a collective, so no process can run it alone.
"""

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
    """A step whose net all processes must run together.

    Attributes:
        processes: The processes that run the net.
    """

    processes: Processes

    def run_only(self, batch: Any) -> None:
        """Run the net on a batch without counting it."""


class _StandIn:
    """A batch that is run but not counted, because other processes still have batches."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class Lockstep:
    """A step that counts the batches of this process, and only runs the net on stand-ins.

    Args:
        step: The step for a batch of this process.
        device: The device of the batches.
    """

    def __init__(self, step: CollectiveStep, device: torch.device) -> None:
        self._step = step
        self._device = device
        self.logs = step.logs
        self.done = False  # `batches` ends the stage in all processes at once

    def __call__(self, batch: Any) -> None:
        """Process a batch."""
        if isinstance(batch, _StandIn):
            self._step.run_only(batch.batch)
        else:
            self._step(batch)

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch.batch if isinstance(batch, _StandIn) else batch

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches of this process, then stand-ins while other processes have batches.

        It ends in all processes when one of them is done.
        """
        gather, last = self._step.processes.gather, None
        while True:
            batch = next(batches, None)
            # Exchanged before each batch, so that all processes run the net equally often.
            # This is a collective in each round; the processes wait for the slowest one.
            rounds = gather((batch is not None, self._step.done))
            have_batch = [has_batch for has_batch, _ in rounds]
            if not any(have_batch) or any(done for _, done in rounds):
                return
            if last is None and not all(have_batch):
                # In the first round a process without data has no batch to repeat: all processes
                # take that of the first rank that has one.
                first = have_batch.index(True)
                # Pickled tensors keep their device, which in another process would be that of the
                # sender.
                local_batch = map_tensors(Tensor.cpu, batch)
                sent = gather(local_batch if self._step.processes.rank == first else None)
                last = map_tensors(partial(Tensor.to, device=self._device), sent[first])
            last = last if batch is None else batch
            yield _StandIn(last) if batch is None else batch


def in_lockstep(net: nn.Module, step: Any, batches: Iterator[Any]) -> tuple[Step, Iterator[Any]]:
    """Return the step and its batches; if the net is sharded, so that all processes keep pace."""
    if not is_sharded(net):
        return step, batches
    lockstep = Lockstep(step, next(net.parameters()).device)
    return lockstep, lockstep.batches(batches)
