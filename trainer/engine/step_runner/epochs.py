"""Epochs that a user's own `EpochRunner` goes over: torchkeras' other extension point.

`KerasModel.EpochRunner = EpochRunner`, a class `EpochRunner(step_runner, quiet=False)` beside a
`StepRunner`. Called with an epoch's batches it goes over them and returns the epoch's figures by
name. To callbacks an epoch is then one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fitorch.data.sources import Source
from fitorch.engine.steps.evaluation import Measures

from .kit import RunnerKit, called
from .log import StageLog
from .steps import RunnerEvaluationStep, RunnerTrainingStep


class Batches:
    """The batches of an epoch, as an `EpochRunner` expects them: to be gone over once.

    Args:
        batches: The batches.
        size: How many there are, None where that is not known.
    """

    def __init__(self, batches: Iterator[Any], size: int | None) -> None:
        self._batches = batches
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return self._batches

    def __len__(self) -> int:
        if self.size is None:
            message = "how many batches there are is known at the end alone"
            raise TypeError(message)
        return self.size


class EpochEvaluationStep(RunnerEvaluationStep):
    """What the user's epoch runner makes of a pass over validation data."""

    def __init__(self, measures: Measures, *args: Any) -> None:
        super().__init__(measures, *args)
        self._kit = _kit_of(measures)
        self.log = StageLog(self._prefix.removesuffix("_"), {})

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Give all batches at once."""
        yield Batches(batches, steps)

    def __call__(self, batch: Any) -> None:
        """Have the epoch runner go over the batches."""
        self.log.tell(self._kit.over(self._make())(batch))


class EpochTrainingStep(RunnerTrainingStep):
    """What the user's epoch runner makes of an epoch of training."""

    def __init__(
        self, measures: Measures, source: Source, update: Any, model: Any, arguments: Any
    ) -> None:
        self._kit = _kit_of(measures)
        if arguments.gradient_accumulation_steps > 1:
            message = (
                f"gradient_accumulation_steps can't go with {called(self._kit.epoch_kind)}, an "
                "EpochRunner; let the StepRunner update every few batches"
            )
            raise ValueError(message)
        super().__init__(measures, source, update, model, arguments)
        self.log = StageLog("train", {})

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Give all batches at once."""
        yield Batches(batches, steps)

    def __call__(self, batch: Any) -> None:
        """Have the epoch runner go over the batches; count the updates that are made."""
        counting = self.update.optimizer.register_step_post_hook(self._count)
        try:
            self.log.tell(self._kit.over(self._runner)(batch))
        finally:
            counting.remove()

    def _count(self, *_: Any) -> None:
        self.update.completed += 1


def _kit_of(measures: Measures) -> RunnerKit:
    kit: RunnerKit = measures.runner
    return kit
