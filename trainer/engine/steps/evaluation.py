"""A step of evaluation: a batch is measured, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .measurement import Measurement


class EvaluationStep:
    """Measures batches of a validation or an evaluation.

    Args:
        measurement: Measures a batch.
        stopped: Returns whether the stage should end early.
    """

    def __init__(self, measurement: Measurement, stopped: Callable[[], bool]) -> None:
        self.measurement = measurement
        self.logs = measurement.logs
        self.processes = measurement.processes
        self._stopped = stopped

    def __call__(self, batch: Any) -> None:
        """Measure a batch."""
        self.measurement.measure(batch)

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        return self._stopped()

    def begin(self) -> None:
        """Start a new stage."""
        self.measurement.reset()
        self.measurement.measure_penalties()

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return the batches of a stage in the form that the step takes."""
        return batches

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch

    def run_only(self, batch: Any) -> None:
        """Run the net on a batch without counting it."""
        self.measurement.run_only(batch)
