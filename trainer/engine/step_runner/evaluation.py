"""The evaluation step of the user's `StepRunner`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fitorch.data.sources import Source
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.tree import sample_count

from .epochs import EpochBatches
from .kit import RunnerKit
from .log import StageLog
from .setup import check_one_process, metric_copies, placed_kit


class RunnerEvaluationStep:
    """Calls the user's step runner with each batch, or the epoch runner with all of them.

    Args:
        spec: What to measure; its metrics are passed to the runner.
        source: Where the batches come from.
        prefix: The prefix of the names of the values, as "val_".
        stopped: Returns whether the stage should end early.
    """

    def __init__(
        self, spec: MeasurementSpec, source: Source, prefix: str, stopped: Callable[[], bool]
    ) -> None:
        check_one_process(spec)
        stage, metrics = prefix.removesuffix("_"), metric_copies(spec)
        self._kit: RunnerKit = placed_kit(spec)
        self._make = partial(self._kit.make, spec, stage, metrics)
        self._whole_passes = self._kit.epoch_runner is not None
        self.measurement = StageLog(stage, {} if self._whole_passes else metrics, spec, source)
        self.logs = self.measurement.logs
        self.processes = self.measurement.processes
        self._stopped = stopped
        self._runner: Callable[[Any], Any] | None = None

    def __call__(self, batch: Any) -> None:
        """Measure a batch, or all batches of a pass."""
        if self._runner is None:  # created within the pass: it may change the net's modes
            self._runner = self._make()
        if self._whole_passes:
            self.measurement.replace(self._kit.make_epoch_runner(self._runner)(batch))
        else:
            self.measurement.add(self._runner(batch), max(1, sample_count(batch, default=1)))

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        return self._stopped()

    def begin(self) -> None:
        """Start a new pass, for which a new runner is created."""
        self.measurement.reset()
        self._runner = None

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return the batches of a pass; for an epoch runner, all of them as one."""
        return iter([EpochBatches(batches, steps)]) if self._whole_passes else batches

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch
