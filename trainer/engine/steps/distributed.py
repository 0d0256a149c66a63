"""The training step in one of several processes, for any `GradientSync`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import is_host
from fitorch.engine.coordinator import Coordinator
from fitorch.errors import NonFiniteError, RankError

from .loss_weighting import LossWeighting
from .sync.gradient_sync import GradientSync
from .training_measurement import TrainingMeasurement
from .updating import UpdatingStep
from .windows import windows

_READ_EVERY = 16  # updates between two reads of an accelerator's answer


class DistributedStep(UpdatingStep[TrainingMeasurement]):
    """Updates the weights by the gradients of the batches of all processes, taken as one batch.

    It takes batches, or None if this process has none left while others have.

    Args:
        *args: As for `UpdatingStep`.
        sync: Synchronizes gradients.
        coordinator: Makes the decisions that all processes share.
        window: Batches of an update.
    """

    def __init__(
        self, *args: Any, sync: GradientSync, coordinator: Coordinator, window: int = 1
    ) -> None:
        super().__init__(*args)
        measurement = self.measurement
        self._sync, self._coordinator, self.window = sync, coordinator, window
        self._weighting = LossWeighting(measurement.objective, measurement.processes, window)
        self._last: Any = None  # a batch that stands in for one that this process does not have
        self._failure: NonFiniteError | None = None
        self._unread = 0  # updates since the last read
        # The others wait in a collective: a loss that is not finite is raised once all know of it.
        measurement.on_nonfinite = self._remember

    def __call__(self, batch: Any) -> None:
        """Train on a batch, and update the weights at the end of its window."""
        batch, closes = batch if self.window > 1 else (batch, True)
        counts = batch is not None
        # Every process takes part in every collective of a step, so one whose data has ended runs
        # its last batch again, without counting it.
        self._last = self._last if batch is None else batch
        if self._last is None:
            # A resumed fit may begin with a round that has no batch for this process.
            self._last = self.measurement.source.last_skipped()
        if self._last is None:
            message = "there are fewer samples than processes; use fewer processes"
            raise RankError(message)
        # The first update wraps the net, for which DDP needs a batch.
        if not self._open:
            self._sync.begin_update(self._last)
        with self._sync.scope(closes=closes):
            self.measurement.counts = counts
            parts = self._sync.forward(self._last)
            total, count = self._weighting(parts, counts=counts)
            # A request travels with the gradients, so that all processes learn of it in the same
            # update.
            request = float(self._failure is not None or self._coordinator.requested)
            self._sync.backward(total, request, count)
        self._open = not closes
        if closes:
            # This comes before the update: clipping must see the gradients of all processes, and an
            # error of one process raises in all of them before the weights change.
            self._finish()
            self.update()

    def begin_epoch(self) -> None:
        """Follow what callbacks have frozen or unfrozen."""
        self._sync.begin_epoch()

    def close(self) -> None:
        """Release the group of processes, even while an error keeps this step alive."""
        self._sync.close()

    @property
    def done(self) -> bool:
        """Whether the processes have decided to stop; an update that has begun is finished."""
        # All processes must leave the stage after the same batch, so their common decision counts,
        # not the request of this one.
        return not self._open and self._coordinator.stopped

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch[0] if self.window > 1 else batch

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Return the batches; if several make an update, each with whether it is the last."""
        return self._marked(batches) if self.window > 1 else batches

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch so far, and the unit of counts."""
        return {**super().state_dict(), "reference": self._weighting.reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of an epoch, and the unit of counts."""
        super().load_state_dict(state)
        self._weighting.reference = state.get("reference")

    def _marked(self, batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        for window in windows(batches, self.window):
            yield from ((batch, n == len(window)) for n, batch in enumerate(window, 1))

    def _finish(self) -> None:
        """Divide the gradients by the counts of all processes; synchronize if one asks for it.

        Raises:
            NonFiniteError: The loss was not finite in one of the processes.
        """
        totals = self._sync.totals()
        # On an accelerator reading waits for the device, so only every 16th answer is read.
        reads = is_host(totals) or self._unread >= _READ_EVERY
        self._unread = 0 if reads else self._unread + 1
        count: float | Tensor = totals[1]
        if reads:
            # On an accelerator this waits for the device.
            requests, count = totals.tolist()
            # A mean of requests is above 0 if any process requests a synchronization, so all enter
            # it.
            if requests:
                self._coordinator.synchronize(self._failure)
        # Sums over samples are added up, not divided. A division by 1 changes nothing, and if
        # nothing counts, all gradients are 0.
        if self._weighting.sums or (reads and count in (0.0, 1.0)):
            return
        if isinstance(count, Tensor):
            # The count on the device may be 0, and 0 / 0 would turn the gradients into NaN.
            count = count.clamp_min(torch.finfo(count.dtype).tiny)
        self._sync.divide(count)

    def _remember(self, error: NonFiniteError) -> None:
        self._failure = error
