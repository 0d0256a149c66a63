"""The protocol of the values of a stage: losses and metrics, whatever measures them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from fitorch.callbacks.logs import BatchLogs
from fitorch.data.sources import Source
from fitorch.distributed.processes import Processes


class StageValues(Protocol):
    """The loss and the metrics of a stage, batch by batch; a fit's state keeps their sums.

    Attributes:
        batches: The batches of a stage that has ended, over all processes after `result`.
        logs: What the hooks of batches receive.
        processes: The processes that train together.
    """

    batches: int
    logs: BatchLogs
    processes: Processes

    @property
    def net(self) -> nn.Module:
        """The net, for messages."""
        ...

    @property
    def source(self) -> Source:
        """Where the batches come from, for messages."""
        ...

    @property
    def tasks(self) -> dict[str, str]:
        """What each metric given by name measures; known after the first batch."""
        ...

    def result(self, where: str) -> dict[str, float]:
        """Return the values of a stage that has ended."""
        ...

    def reset(self) -> None:
        """Start a new stage."""

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the stage so far."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a stage."""
