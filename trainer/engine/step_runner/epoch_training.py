"""The training step of the user's `EpochRunner`: a whole epoch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fitorch.data.sources import Source
from fitorch.engine.arguments import FitArguments
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.optim.update import Update

from .epochs import EpochBatches
from .kit import class_name
from .log import StageLog
from .setup import check_arguments, check_one_process, metric_copies
from .training import prepared_runner

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


class EpochTrainingStep(UpdatingStep[StageLog]):
    """Calls the user's epoch runner with all batches of an epoch.

    Args:
        spec: What to measure; its metrics are passed to the step runner.
        source: Where the batches come from.
        update: Holds optimizer and schedule, which the runner steps itself.
        model: Its `stop_training` ends training after the epoch.
        arguments: The arguments of the fit.

    Raises:
        ValueError: An argument of the fit does not work with an `EpochRunner`.
    """

    _runner: Callable[[Any], Any]  # of the epoch

    def __init__(
        self,
        spec: MeasurementSpec,
        source: Source,
        update: Update,
        model: BaseModel,
        arguments: FitArguments,
    ) -> None:
        assert spec.runner is not None
        self._kit = spec.runner
        if arguments.gradient_accumulation_steps > 1:
            message = (
                f"gradient_accumulation_steps does not work with "
                f"{class_name(self._kit.epoch_runner)}, an EpochRunner; accumulate gradients in "
                "the StepRunner"
            )
            raise ValueError(message)
        super().__init__(StageLog("train", {}, spec, source), update, model)
        check_one_process(spec)
        check_arguments(model, source, arguments)
        accelerator, self._make = prepared_runner(spec, update, metric_copies(spec))
        accelerator.gradient_accumulation_steps = 1

    def __call__(self, batch: EpochBatches) -> None:
        """Train on the batches of an epoch, and count the optimizer's updates."""
        # The whole epoch is one batch here, so updates are counted where they happen.
        counting_hook = self.update.optimizer.register_step_post_hook(self._count)
        try:
            self.measurement.replace(self._kit.make_epoch_runner(self._runner)(batch))
        finally:
            counting_hook.remove()

    def begin_epoch(self) -> None:
        """Create the step runner of the epoch."""
        self.update.zero_grad()
        self._runner = self._make()

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return all batches as one."""
        return iter([EpochBatches(batches, steps)])

    def _count(self, *_: object) -> None:
        self.update.completed += 1
