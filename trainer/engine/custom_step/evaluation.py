"""The evaluation step of the user's function or method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer

from fitorch.data.sources import Source
from fitorch.engine.extra_state import optimizers_of
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.optim.noted_steps import noted_steps
from fitorch.tree import sample_count

from .figures import StepFigures
from .training import active


class CustomEvaluationStep:
    """Calls the user's `test_step`, or the function that trains, whose updates then do nothing.

    Args:
        spec: What to measure, and the function.
        source: Where the batches come from.
        prefix: The prefix of the names of the values, as "val_".
        stopped: Returns whether the stage should end early.
    """

    def __init__(
        self, spec: MeasurementSpec, source: Source, prefix: str, stopped: Callable[[], bool]
    ) -> None:
        assert spec.steps is not None
        self._model = spec.steps.model
        self._function = spec.placement.cast(spec.steps.test)
        self.measurement = StepFigures(spec, source, prefix)
        self.logs = self.measurement.logs
        self.processes = self.measurement.processes
        self._stopped = stopped
        self._optimizers: list[Optimizer] = []

    def __call__(self, batch: Any) -> None:
        """Measure a batch."""
        with active(self._model, self), noted_steps(self._optimizers, self._refuse):
            returned = self._function(batch)
        self.measurement.add(returned, max(1, sample_count(batch, default=1)))

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        return self._stopped()

    def begin(self) -> None:
        """Start a new stage."""
        self.measurement.reset()
        self._optimizers = optimizers_of(self._model)

    def _refuse(self) -> None:
        """Raise an error for an update in a validation, which must not train.

        Raises:
            RuntimeError: Always.
        """
        message = (
            "the step called optimizer.step() in validation; call model.update(), which does "
            "nothing there, or define test_step"
        )
        raise RuntimeError(message)

    def backward(self, loss: Any) -> None:
        """Do nothing: a validation changes no weights."""

    def make_update(self, name: str | None) -> bool:
        """Do nothing: a validation changes no weights."""
        return False

    def measure(self, y_pred: Any, y_true: Any, weight: Any) -> None:
        """Update the metrics."""
        self.measurement.metrics.update(y_pred, y_true, weight)

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return the batches of a stage in the form that the step takes."""
        return batches

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch

    def run_only(self, batch: Any) -> None:
        """Run the function on a batch without counting it."""
        with active(self._model, self):
            self._function(batch)
