"""Run one stage, training, validation or prediction: a step for each batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import nn

from fitorch.callbacks.base import Hook
from fitorch.callbacks.hooks import emit
from fitorch.callbacks.logs import BatchLogs

from .diagnostics import explain


class Step(Protocol):
    """Processes a batch of training, evaluation or prediction."""

    @property
    def logs(self) -> BatchLogs | None:
        """The logs that the hooks of batches receive; None in a prediction."""
        ...

    def __call__(self, batch: Any) -> None:
        """Process a batch."""

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
    """Call the step for each batch, until the batches end or the step is done.

    Args:
        net: The net, for messages.
        step: Processes a batch.
        batches: The batches.
        begin: The hooks before each batch.
        end: The hooks after each batch.
        where: The name of a batch in messages, without its number.
        first: The number of the first batch.

    Returns:
        The number of batches that were processed.
    """
    # The index starts before the first batch, so that a stage without batches returns 0.
    logs, index = step.logs, first - 1
    for index, batch in enumerate(batches, first):
        if begin:
            emit(begin, index, logs)
        # Only errors of the step are explained by the batch. Errors of hooks get the name of their
        # hook in `emit`, and errors in reading get theirs in `reading`.
        try:
            step(batch)
        except Exception as error:
            explain(error, net, step, batch, f"{where} {index + 1}")
            raise
        if end:
            emit(end, index, logs)
        # This follows the hooks: a callback may request the stop in on_train_batch_end of this
        # batch.
        if step.done:
            break
    return index + 1 - first
