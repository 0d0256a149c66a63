"""Validation: passes over data that measure loss and metrics without side effects."""

from __future__ import annotations

from functools import partial

from fitorch.callbacks.hooks import Hooks, emit, emit_all
from fitorch.callbacks.logs import KerasNames
from fitorch.data.epochs import opened, reading
from fitorch.data.sources import Source
from fitorch.engine.custom_step.evaluation import CustomEvaluationStep
from fitorch.engine.step_runner.evaluation import RunnerEvaluationStep
from fitorch.engine.steps.evaluation import EvaluationStep
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.errors import DataError

from .inference import GradientsOnDemand, inference
from .lockstep import in_lockstep
from .stage import run_stage


class Evaluation:
    """A pass over validation data.

    Args:
        spec: The net, on its device, and its loss.
        step: Measures a batch.
        source: Where the batches come from.
        hooks: The hooks of the callbacks.
        steps: The number of batches to measure, None for all.
        name: The name of the data in messages.
    """

    def __init__(
        self,
        spec: MeasurementSpec,
        step: EvaluationStep | RunnerEvaluationStep | CustomEvaluationStep,
        source: Source,
        hooks: Hooks,
        steps: int | None = None,
        name: str = "val_data",
    ) -> None:
        self._net, self._loss = spec.net, spec.objective.module
        self.step = step
        self._source = source
        self._hooks = hooks
        self._steps = steps
        self.name = name

    @property
    def metric_tasks(self) -> dict[str, str]:
        """The task of each metric that was passed by name, known after the first batch."""
        return self.step.measurement.tasks

    def __call__(self, where: str = "") -> dict[str, float]:
        """Measure all batches and return the values.

        Args:
            where: The prefix of "validation batch 3" in messages.

        Raises:
            DataError: There was no batch.
        """
        hooks, prefix = self._hooks, self.step.logs.prefix
        figures = KerasNames[float](prefix=prefix)
        try:
            emit(hooks.on_test_begin, {})
            figures = KerasNames(self._measure(where), prefix)
        # Callbacks close what they opened in on_test_begin, even if a batch fails.
        finally:
            emit_all(hooks.on_test_end, figures)
        return figures

    def close(self) -> None:
        """Stop the worker processes that read the data."""
        self._source.close()

    def _measure(self, where: str) -> dict[str, float]:
        hooks, step, processes = self._hooks, self.step, self.step.processes
        # This measures penalties, a collective with a sharded net, so every process calls it.
        step.begin()
        self._source.refresh()
        # Training updates buffers, as running statistics, in each process by its own batches. All
        # must evaluate with the same ones, or the result would depend on how the data is split.
        processes.broadcast_module(self._net, parameters=False)
        with inference(self._net, self._loss):
            taken = opened(self._source, processes, self._steps)
            samples_in = partial(self._source.samples_in, 0)
            batches = reading(taken, self.name, where, samples_in)
            begin, end = hooks.on_test_batch_begin, hooks.on_test_batch_end
            stage = "validation" if self.name == "val_data" else self.name
            batches = step.arranged(batches, self._steps or self._source.steps)
            # The lockstep is the outermost iterator: it decides in each round whether a batch is
            # taken.
            lockstep, batches = in_lockstep(self._net, step, batches)
            place = f"{where}{stage} batch"
            measurement = step.measurement
            on_demand = GradientsOnDemand(lockstep)
            measurement.batches = run_stage(self._net, on_demand, batches, begin, end, place)
        # This reads from the device, and is a collective of all processes, even of those without
        # batches.
        figures = measurement.result(f"{where}{stage}")
        # `result` has set the number of batches to that of all processes, so all of them raise.
        if not measurement.batches and not step.done:
            message = (
                f"{self.name} is empty: the validation data gave no batch; a generator yields its "
                "batches only once: pass a DataLoader, (x, y), or an object with __iter__"
            )
            raise DataError(message)
        return figures


class Validation:
    """Passes over all validation sets, one after the other.

    Args:
        passes: The passes.
    """

    def __init__(self, passes: list[Evaluation]) -> None:
        self.passes = passes

    @property
    def metric_tasks(self) -> dict[str, str]:
        """The task of each metric that was passed by name, known after the first batch."""
        tasks: dict[str, str] = {}
        for evaluation in self.passes:
            tasks |= evaluation.metric_tasks
        return tasks

    def close(self) -> None:
        """Stop the worker processes that read the data."""
        for evaluation in self.passes:
            evaluation.close()

    def __call__(self, where: str = "") -> dict[str, float]:
        """Measure all sets and return their values."""
        figures: dict[str, float] = {}
        for evaluation in self.passes:
            figures |= evaluation(where)
        return figures
