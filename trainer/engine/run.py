"""The state and the parts of a running fit, all of them chosen before its first batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from fitorch.callbacks.hooks import Hooks
from fitorch.callbacks.logs import EpochLogs
from fitorch.data.epochs import EpochIterator, reading
from fitorch.engine.steps.stage_values import StageValues
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.errors import NonFiniteError
from fitorch.nets.modes import TrainingModes

from .arguments import FitArguments
from .coordinator import Coordinator
from .diagnostics import of_earlier_batch
from .evaluation import Validation
from .shutdown import Saver, Shutdown
from .state import FitState, Progress

if TYPE_CHECKING:
    from .base_model import BaseModel


@dataclass(slots=True)
class Run:
    """A fit that is ready to begin.

    Args:
        model: The model that is trained.
        state: The training state.
        step: Trains on a batch.
        hooks: The hooks of the callbacks.
        shutdown: Ends the fit after a signal or an error.
        modes: The train and eval modes of the net in training.
        arguments: The arguments of the fit.
        last_epoch: The number of epochs that will be completed at the end.
        monitor: The value that decides which epoch is best.
        validation: The passes over the validation data, or None.
        coordinator: Makes the decisions that all processes share.
        cut_short: Whether the current epoch was stopped in order to be resumed later.
    """

    model: BaseModel
    state: FitState
    step: UpdatingStep[StageValues]
    hooks: Hooks
    shutdown: Shutdown
    modes: TrainingModes
    arguments: FitArguments
    last_epoch: int
    monitor: str
    validation: Validation | None
    coordinator: Coordinator
    cut_short: bool = False
    logs: EpochLogs = field(default_factory=EpochLogs)
    _first_update: int = 0  # updates that were completed before the current epoch

    def __post_init__(self) -> None:
        # The model refers to its fit, so that callbacks reach it through `model.run`.
        self.model.run = self
        if self.saver is not None:
            # Only a fit that saves records the random state at the beginning of each pass: a
            # resumed pass draws its order from that state.
            self.saver.run, self.iterator.remembers = self, True

    @property
    def saver(self) -> Saver | None:
        """What saves the training state, or None."""
        return self.shutdown.saver

    @property
    def net(self) -> nn.Module:
        """The net, on its device."""
        return self.state.net

    @property
    def progress(self) -> Progress:
        """The counters of epochs, batches and updates."""
        return self.state.progress

    @property
    def iterator(self) -> EpochIterator:
        """The iterator over the training batches."""
        return self.state.iterator

    @property
    def done(self) -> bool:
        """Whether training is over."""
        return self.coordinator.stopped or self.progress.epochs >= self.last_epoch

    @property
    def consistent(self) -> bool:
        """Whether the weights contain all batches that were read, and no update is incomplete."""
        trained = self.state.update.completed - self._first_update
        window = self.arguments.gradient_accumulation_steps
        return self.step.at_boundary and trained == _windows(self.iterator.taken, window)

    def begin_training(self) -> None:
        """Prepare the net, the loss and the step for the training of an epoch.

        `net.train()` is called; modules that the user or a callback froze stay in eval mode.
        """
        self.model.report_new_parameters()
        self.iterator.refresh()
        self.modes.apply()
        # Without a batch left, as after a stop in validation, the weights stay as they were saved.
        if self.iterator.steps is None or self.iterator.taken < self.iterator.steps:
            self.state.update.begin_training()
        for objective in self.model.objectives:
            objective.bind(self.net)  # callbacks may have frozen or unfrozen parameters
            objective.begin_epoch(self.progress.epochs)
        # This follows the callbacks, because steps depend on which parameters are frozen.
        self.step.begin_epoch()
        # In an epoch that is resumed, the updates of its first batches are completed already.
        window = self.arguments.gradient_accumulation_steps
        self._first_update = self.state.update.completed - _windows(self.iterator.taken, window)

    def pause(self) -> None:
        """Save the training state if a stop within the epoch was requested; honor signals."""
        if not self.coordinator.stopped:
            return
        # Without a known length, batches may be left, so the epoch counts as unfinished.
        unfinished = self.iterator.steps is None or self.iterator.taken < self.iterator.steps
        self.cut_short = unfinished and self.pauses
        self.shutdown.honor_signals(save=self.cut_short)

    @property
    def pauses(self) -> bool:
        """Whether training stops for an outside reason, such as lack of time, and may resume."""
        return self.coordinator.pauses

    @property
    def stopped(self) -> str | None:
        """The reason why training ended before its last epoch, None if it did not or may resume."""
        if not self.coordinator.stopped or self.pauses:
            return None
        return self.coordinator.reason or "stop_training was set"

    def end_epoch(self, logs: EpochLogs) -> None:
        """Count the epoch as completed."""
        # Sums are reset at the end of an epoch, not at the beginning of the next one: a resumed
        # epoch starts with the sums from its checkpoint.
        self.step.reset()
        self.iterator.end_epoch()
        self._first_update = self.state.update.completed
        self.progress.epochs += 1
        self.logs = logs
        self.model.metric_tasks = self._metric_tasks()

    def _metric_tasks(self) -> dict[str, str]:
        validated = {} if self.validation is None else self.validation.metric_tasks
        # The tasks of training come last and decide where both stages measure a metric.
        return validated | self.step.measurement.tasks

    def batches(self) -> Iterator[Any]:
        """Return the batches of the epoch in the form that the step takes."""
        where = f"epoch {self.progress.epochs + 1}, training "
        batches = reading(self.iterator.epoch(), "train_data", where, self._samples_in_next)
        return self.step.arranged(batches, self.iterator.steps)

    def samples_of(self, batch: int) -> list[int]:
        """Return the first sample numbers of a batch of the epoch, if they are known."""
        iterator = self.iterator
        # At the end of an epoch, the iterator may have begun the next pass.
        position = iterator.position - iterator.taken + batch
        known = iterator.source.steps is not None and 0 <= position < iterator.source.steps
        samples = iterator.source.samples_in(iterator.pass_index, position) if known else []
        return samples[:3]

    def _samples_in_next(self, _number: int) -> list[int]:
        return self.iterator.source.samples_in(self.iterator.pass_index, self.iterator.position)

    def validation_in(self, epoch: int) -> Validation | None:
        """Return the validation if it is due in `epoch`, counted from 0, else None."""
        # A callback stops one validation, not all later ones.
        self.model.stop_evaluating = False
        return None if (epoch + 1) % self.arguments.validation_freq else self.validation

    def figures(self) -> dict[str, float]:
        """Return the training values of the epoch, its last learning rates and scheduled weights.

        Raises:
            NonFiniteError: The loss is NaN or infinite. On an accelerator this is detected only
                here, where losses are read from the device.
        """
        rates = self.state.update.learning_rates()
        try:
            # This reads the sums from the device, and with several processes it is a collective.
            figures = self.step.measurement.result(f"epoch {self.progress.epochs + 1}, training")
            self.step.check_epoch()
        except NonFiniteError as error:
            # This error is raised outside of `run_stage`, which adds the circumstances to others.
            where = f"epoch {self.progress.epochs + 1}"
            if error.batches_since is not None:
                raise of_earlier_batch(error, self.step, where) from error
            message = f"{error} in {where}{self.step.circumstances()}"
            raise NonFiniteError(message) from error
        return figures | rates | self.state.objective.weights

    def schedule(self, logs: Mapping[str, float]) -> None:
        """Step the learning-rate schedule if it steps once per epoch or validation."""
        scheduling = self.state.update.scheduling
        scheduling.after_epoch(self.progress.epochs + 1, self.monitor, logs)

    def close(self) -> None:
        """Release gradients, iterators and workers; store the counters in the model."""
        # The counters live in the update and the iterator, both of which end here.
        self.state.count()
        self.model.run = None
        self.state.update.close()
        self.step.close()
        self.iterator.close()
        if self.validation is not None:
            self.validation.close()


def _windows(batches: int, size: int) -> int:
    return -(-batches // size)
