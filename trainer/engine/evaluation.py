"""Validation and prediction: passes over data that train nothing and disturb nothing."""

from __future__ import annotations

from functools import partial
from itertools import islice

from fitorch.callbacks.hooks import Hooks, emit, emit_all
from fitorch.data.epochs import opened, reading
from fitorch.data.sources import Source
from fitorch.engine.step_runner.evaluation import RunnerEvaluationStep
from fitorch.engine.steps.evaluation import EvaluationStep
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.errors import DataError

from .lockstep import in_lockstep
from .prediction import inference
from .stage import run_stage


class Evaluation:
    """A pass over validation data.

    Args:
        spec: The net, on its device, and its loss.
        step: Measures a batch.
        source: Where batches come from.
        hooks: Who is told.
        steps: Batches to take, or None for all.
        name: What to call the data in a message.
    """

    def __init__(
        self,
        spec: MeasurementSpec,
        step: EvaluationStep | RunnerEvaluationStep,
        source: Source,
        hooks: Hooks,
        steps: int | None = None,
        name: str = "val_data",
    ) -> None:
        self._net, self._loss = spec.net, spec.objective.module
        self._step = step
        self._source = source
        self._hooks = hooks
        self._steps = steps
        self._name = name

    @property
    def metric_tasks(self) -> dict[str, str]:
        """What metrics given by name turned out to measure, once they have seen a batch."""
        return self._step.measurement.tasks

    def __call__(self, where: str = "") -> dict[str, float]:
        """Return the figures of a pass.

        Args:
            where: What to put before "validation batch 3" in a message.

        Raises:
            DataError: The data gave no batch.
        """
        hooks, figures = self._hooks, {}
        try:
            emit(hooks.on_test_begin, {})
            figures = self._measure(where)
        finally:
            emit_all(hooks.on_test_end, figures)
        return figures

    def close(self) -> None:
        """End worker processes that read the data."""
        self._source.close()

    def _measure(self, where: str) -> dict[str, float]:
        hooks, step, processes = self._hooks, self._step, self._step.processes
        step.begin()
        processes.broadcast_module(
            self._net, parameters=False
        )  # in training each has buffers of its own
        with inference(self._net, self._loss):
            taken = islice(opened(self._source, processes), self._steps)
            samples_in = partial(self._source.samples_in, 0)
            batches = reading(taken, self._name, where, samples_in)
            begin, end = hooks.on_test_batch_begin, hooks.on_test_batch_end
            kind = "validation" if self._name == "val_data" else self._name
            batches = step.arranged(batches, self._steps or self._source.steps)
            taken_by, batches = in_lockstep(self._net, step, batches)
            place = f"{where}{kind} batch"
            measurement = step.measurement
            measurement.batches = run_stage(self._net, taken_by, batches, begin, end, place)
        figures = measurement.result(f"{where}{kind}")
        if not measurement.batches and not step.done:
            message = (
                f"{self._name} is empty: the validation data gave no batch; a generator gives its "
                "batches once: pass a DataLoader, (x, y), or an object with __iter__"
            )
            raise DataError(message)
        return figures


class Validation:
    """A pass over each set of validation data, one after the other.

    Args:
        passes: The passes.
    """

    def __init__(self, passes: list[Evaluation]) -> None:
        self._passes = passes

    @property
    def metric_tasks(self) -> dict[str, str]:
        """What metrics given by name turned out to measure, once they have seen a batch."""
        tasks: dict[str, str] = {}
        for each in self._passes:
            tasks |= each.metric_tasks
        return tasks

    def close(self) -> None:
        """End worker processes that read the data."""
        for each in self._passes:
            each.close()

    def __call__(self, where: str = "") -> dict[str, float]:
        """Return the figures of all sets; where Ctrl-C ended one, of those up to it."""
        figures: dict[str, float] = {}
        for each in self._passes:
            figures |= each(where)
        return figures
