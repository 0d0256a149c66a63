"""The training step of the user's `StepRunner`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fitorch.data.sources import Source
from fitorch.engine.arguments import FitArguments
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.optim.scheduling import Scheduling
from fitorch.optim.update import Update
from fitorch.tree import sample_count

from .log import StageLog
from .setup import check_arguments, check_one_process, metric_copies, placed_kit

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


class RunnerTrainingStep(UpdatingStep[StageLog]):
    """Calls the user's step runner, which does the forward and backward pass, update and schedule.

    Args:
        spec: What to measure; its metrics are passed to the runner.
        source: Where the batches come from.
        update: Holds optimizer and schedule, which the runner steps itself.
        model: Its `stop_training` ends the epoch early.
        arguments: The arguments of the fit.

    Raises:
        ValueError: An argument of the fit does not work with a `StepRunner`.
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
        metrics = metric_copies(spec)
        super().__init__(StageLog("train", metrics, spec, source), update, model)
        check_one_process(spec)
        check_arguments(model, source, arguments)
        self._accelerator, self._make = prepared_runner(spec, update, metrics)
        self._window = arguments.gradient_accumulation_steps
        self._accelerator.gradient_accumulation_steps = self._window
        self._steps = arguments.steps_per_epoch or source.steps
        self._since_update = 0  # batches
        self._taken = 0  # batches of the epoch

    def __call__(self, batch: Any) -> None:
        """Train on a batch; the prepared optimizer skips updates within a window."""
        self._since_update, self._taken = self._since_update + 1, self._taken + 1
        # The last batch of an epoch closes its window, however many batches it has.
        closes = self._since_update == self._window or self._taken == self._steps
        # If the runner raises, the weights may contain a part of the batch: no checkpoint then.
        self._open = True
        # accelerate's prepared optimizer and schedule step only if this flag is set.
        self._accelerator.sync_gradients = closes
        try:
            returned = self._runner(batch)
        finally:
            # True is the default of accelerate, for all code outside of the runner.
            self._accelerator.sync_gradients = True
        self.measurement.add(returned, max(1, sample_count(batch, default=1)))
        if closes:
            self._open, self._since_update = False, 0
            self.update.completed += 1

    def begin_epoch(self) -> None:
        """Create the runner of the epoch."""
        self.update.zero_grad()
        self._runner = self._make()

    def check_epoch(self) -> None:
        """Do nothing: the runner makes its updates itself."""

    def reset(self) -> None:
        """Start the sums of a new epoch."""
        super().reset()
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch so far, and the number of its batches."""
        # `_since_update` is 0 in every checkpoint, because they are saved between updates.
        return {**super().state_dict(), "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of an epoch, and the number of its batches."""
        super().load_state_dict(state)
        self._taken = state["taken"]


def prepared_runner(
    spec: MeasurementSpec, update: Update, metrics: Mapping[str, Any]
) -> tuple[Any, Callable[[], Callable[[Any], Any]]]:
    """Return the accelerator, and a function that creates runners with prepared optimizers.

    The runner steps the schedule, so `update` no longer does.
    """
    # The runner steps the schedule, so the fit does not.
    update.scheduling = Scheduling(None, "auto")
    accelerator = spec.placement.accelerator
    kit = placed_kit(spec, accelerator)
    optimizer, scheduler = accelerator.prepare_optimizer(update.optimizer), update.scheduler
    if scheduler is not None:
        scheduler = accelerator.prepare_scheduler(scheduler)
    return accelerator, partial(kit.make, spec, "train", metrics, optimizer, scheduler)
