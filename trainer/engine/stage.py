"""A stage of the work: a step for every batch, of training, validation or prediction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import nn

from fitorch.callbacks.base import Hook
from fitorch.callbacks.hooks import emit

from .diagnostics import explain


class Step(Protocol):
    """What is done with a batch of training, evaluation or prediction.

    Attributes:
        logs: What the hooks of batches receive.
    """

    logs: Any

    def __call__(self, batch: Any) -> None:
        """Take a batch."""

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        ...

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        ...


def run_stage(
    net: nn.Module,
    step: Step,
    batches: Iterable[Any],
    begin: tuple[Hook, ...],
    end: tuple[Hook, ...],
    where: str,
    first: int = 0,
) -> int:
    """Take a step for every batch, until the batches or the step's patience end.

    Args:
        net: The net, for messages.
        step: What to do with a batch.
        batches: The batches.
        begin: Called before each batch.
        end: Called after each batch.
        where: What to call a batch in a message, but for its number.
        first: The number of the first batch.

    Returns:
        How many batches there were.
    """
    logs, index = step.logs, first - 1
    for index, batch in enumerate(batches, first):
        if begin:
            emit(begin, index, logs)
        try:
            step(batch)
        except Exception as error:
            explain(error, net, step, batch, f"{where} {index + 1}")
            raise
        if end:
            emit(end, index, logs)
        if step.done:
            break
    return index + 1 - first
