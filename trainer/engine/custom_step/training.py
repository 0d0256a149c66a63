"""The training step of the user's function or method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from fitorch.data.sources import Source
from fitorch.engine.arguments import FitArguments
from fitorch.engine.coordinator import Coordinator
from fitorch.engine.extra_state import optimizers_of
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.engine.steps.windows import windows
from fitorch.errors import NonFiniteError, RankError
from fitorch.optim.noted_steps import noted_steps
from fitorch.optim.update import Update
from fitorch.tree import sample_count

from .figures import StepFigures
from .gradients import StepGradients, updates_of

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel

_FIRST = 100  # windows in which a step must have made an update


class CustomStep(UpdatingStep[StepFigures]):
    """Calls the user's function with each batch; it makes the backward passes and the updates.

    A window of batches counts as one update of the fit, whatever the function does in it: that is
    what checkpoints and schedules count.

    Args:
        spec: What to measure, and the function.
        source: Where the batches come from.
        update: Holds the optimizers and the schedule.
        model: Its `stop_training` ends the epoch early.
        arguments: The arguments of the fit.
        coordinator: Makes the decisions that all processes share.

    Raises:
        ValueError: An argument of the fit does not work with a step of the user's.
    """

    def __init__(
        self,
        spec: MeasurementSpec,
        source: Source,
        update: Update,
        model: BaseModel,
        arguments: FitArguments,
        coordinator: Coordinator,
    ) -> None:
        assert spec.steps is not None
        _check(spec, model, arguments)
        figures = StepFigures(
            spec, source, "train_", lambda part: coordinator.synchronize(part=part)
        )
        super().__init__(figures, update, model)
        self.window = arguments.gradient_accumulation_steps
        self._name = spec.steps.name
        self._function = spec.placement.cast(spec.steps.train)
        self._processes, self._coordinator = spec.placement.processes, coordinator
        self.gradients = StepGradients(updates_of(update), self._processes)
        self._last: Any = None  # a batch that stands in for one that this process does not have
        self._failure: NonFiniteError | None = None
        self._windows = 0
        self._optimizers: list[Optimizer] = []
        self._broadcast = self._processes.is_distributed

    def __call__(self, batch: tuple[Any, bool, bool]) -> None:
        """Train on a batch, which comes with whether it ends its window, and is the only one."""
        content, closes, whole = batch
        counts = content is not None
        self._last = content if counts else self._last
        if self._last is None:
            # A resumed fit may begin with a round that has no batch for this process.
            self._last = self.measurement.source.last_skipped()
        if self._last is None:
            message = "there are fewer samples than processes; use fewer processes"
            raise RankError(message)
        samples = max(1, sample_count(self._last, default=1))
        self._open = True
        request = self._coordinator.requested or self._failure is not None
        self.gradients.begin(samples if counts else 0, closes=closes, whole=whole, request=request)
        self._measures = counts
        with active(self.model, self), noted_steps(self._optimizers, self._note_step):
            returned = self._function(self._last)
        self.gradients.end()
        if counts:
            self._add(returned, samples)
        self._open = not closes
        if closes:
            self._windows += 1
            if self._windows == _FIRST:
                self._check_updates()
            if self.gradients.requests:
                self._coordinator.synchronize(self._failure)
            self.update.advance()

    @property
    def at_boundary(self) -> bool:
        """Whether the weights contain all batches that the step has taken."""
        return not self._open and not self.gradients.pending

    @property
    def done(self) -> bool:
        """Whether a stop was decided; a window that has begun is finished first."""
        return not self._open and self._coordinator.stopped

    def backward(self, loss: Any) -> None:
        """Add the gradients of a loss."""
        self.gradients.backward(loss)

    def make_update(self, name: str | None) -> bool:
        """Update the weights of an optimizer."""
        return self.gradients.update(name)

    def measure(self, y_pred: Any, y_true: Any, weight: Any) -> None:
        """Update the metrics."""
        if self._measures:
            self.measurement.metrics.update(y_pred, y_true, weight)

    def begin_epoch(self) -> None:
        """Discard gradients; give all processes the same weights before the first epoch."""
        self.gradients.discard()
        self._optimizers = optimizers_of(self.model)
        if self._broadcast:
            self._processes.broadcast_module(self.measurement.net)
            self._broadcast = False

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return the batches with whether each ends its window, and is alone in it."""
        if self.window == 1:
            return ((batch, True, True) for batch in batches)
        return (
            (batch, number == len(window), len(window) == 1)
            for window in windows(batches, self.window)
            for number, batch in enumerate(window, start=1)
        )

    def user_batch(self, batch: tuple[Any, bool, bool]) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch[0]

    def check_epoch(self) -> None:
        """Check what only an epoch shows: the monitored value, and gradients on a device."""
        self._check_updates()
        run = self.model.run
        if run is not None and self.measurement.batches_added:
            self.measurement.check_monitored(run.monitor)
        for update in self.gradients.updates.values():
            update.check_epoch()

    def _add(self, returned: object, samples: int) -> None:
        try:
            self.measurement.add(returned, samples)
        except NonFiniteError as error:
            if not self._processes.is_distributed:
                raise
            # The others wait in a collective, so the error is raised once all know of it.
            self._failure = error

    def _check_updates(self) -> None:
        """Raise an error if the function makes no update.

        Raises:
            ValueError: It has made none in the first windows.
        """
        if self._windows and not self.gradients.made:
            message = (
                f"{self._name} has not called model.update() in {self._windows} batches, so "
                "nothing is trained; call model.backward(loss) and then model.update()"
            )
            raise ValueError(message)

    def _note_step(self) -> None:
        """Notice an update that the function makes itself, in the way of a loop by hand.

        Raises:
            RuntimeError: It would miss gradients of other batches or processes.
        """
        if self.gradients.updating:
            return
        if self.window > 1 or self._processes.is_distributed:
            message = (
                f"{self._name} called optimizer.step(), which knows nothing of other processes and "
                "of gradient accumulation; call model.backward(loss) and model.update()"
            )
            raise RuntimeError(message)
        self.gradients.made += 1


@contextmanager
def active(model: BaseModel, step: Any) -> Iterator[None]:
    """Let `model.backward`, `update` and `measure` reach a step until the block ends."""
    before, model.active_step = model.active_step, step
    try:
        yield
    finally:
        model.active_step = before


def _check(spec: MeasurementSpec, model: BaseModel, arguments: FitArguments) -> None:
    """Raise an error for arguments that have no effect on a step of the user's.

    Raises:
        ValueError: There is such an argument; the message contains the alternative.
    """
    assert spec.steps is not None
    placement = spec.placement
    scaled = placement.scaler is not None
    requests = {
        "class_weight": (arguments.class_weight is not None, "weight the loss in it"),
        "jit_compile": (model.compilation is not None, "call torch.compile in it"),
        "fsdp=True": (placement.sharding is not None, "pass fsdp=False"),
        "deepspeed=True": (placement.zero is not None, "pass deepspeed=False"),
        "gradient_accumulation_steps with fp16": (
            scaled and arguments.gradient_accumulation_steps > 1,
            "use mixed_precision='bf16'",
        ),
    }
    for request, (requested, alternative) in requests.items():
        if requested:
            message = f"{request} does not work with {spec.steps.name}, a step; {alternative}"
            raise ValueError(message)
