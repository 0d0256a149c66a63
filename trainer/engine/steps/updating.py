"""What all steps that change the weights have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from fitorch.engine.diagnostics import circumstances
from fitorch.optim.update import Update

from .stage_values import StageValues

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel

Values_co = TypeVar("Values_co", bound=StageValues, covariant=True)


class UpdatingStep(ABC, Generic[Values_co]):
    """A step of training: it measures a batch and, with it or after several, updates the weights.

    A subclass defines one method, `__call__`, with the order of forward, backward and update.
    Measuring a batch and changing the weights are tasks of two other objects.

    Args:
        measurement: Measures a batch.
        update: Changes the weights.
        model: Its `stop_training` ends the epoch early.
    """

    window: int = 1  # batches of an update
    _open: bool = False  # whether an update has begun that more batches are part of

    def __init__(self, measurement: Values_co, update: Update, model: BaseModel) -> None:
        self.measurement = measurement
        self.update = update
        self.model = model
        self.logs = measurement.logs

    @abstractmethod
    def __call__(self, batch: Any) -> None:
        """Train on a batch."""

    @property
    def at_boundary(self) -> bool:
        """Whether the weights contain all batches that the step has taken."""
        return not self._open

    @property
    def done(self) -> bool:
        """Whether a stop was requested; an update that has begun is finished first."""
        return not self._open and bool(self.model.stop_training)

    def begin_epoch(self) -> None:
        """Prepare for an epoch, or for the rest of one."""

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return the batches of an epoch in the form that the step takes.

        Args:
            batches: The batches.
            steps: Their number, None if it is not known.
        """
        return batches

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch

    def circumstances(self, batch: int | None = None) -> str:
        """Return what helps to find the cause of a loss that is not finite.

        Args:
            batch: The number of the batch of the epoch, None for the current one.
        """
        run = self.model.run
        served = batch is None or run is None
        samples = self.served() if served else run.samples_of(batch)  # type: ignore[union-attr, arg-type]
        # This waits for the device, after training has failed.
        samples = [int(sample) for sample in samples]
        rates = list(self.update.learning_rates().values())
        net, updates = self.measurement.net, self.update.completed
        return circumstances(net, rates, updates, samples, self.window)

    def served(self) -> Tensor | list[int]:
        """Return the first sample numbers of the batch that is trained on, if they are known."""
        return self.measurement.source.served()

    def check_epoch(self) -> None:
        """Check what could not be looked at in each update without waiting for a device."""
        self.update.check_epoch()

    def close(self) -> None:
        """Release what the step holds for the duration of a fit."""

    def reset(self) -> None:
        """Start the sums of a new epoch."""
        self.measurement.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch so far."""
        return self.measurement.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of an epoch."""
        self.measurement.load_state_dict(state)
