"""A step of training in one process: forward, objective, backward, update."""

from __future__ import annotations

from typing import Any

from .training_measurement import TrainingMeasurement
from .updating import UpdatingStep


class TrainingStep(UpdatingStep[TrainingMeasurement]):
    """Updates the weights with each batch."""

    def __call__(self, batch: Any) -> None:
        """Train on a batch."""
        self.update.zero_grad()
        self.update.backward(self.measurement.objective.total(self.measurement.measure(batch)))
        self.update()
