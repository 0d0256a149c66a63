"""Decisions that all processes of a fit make together: stop, pause, save, fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fitorch.errors import NonFiniteError

if TYPE_CHECKING:
    from fitorch.distributed.processes import Processes

    from .base_model import BaseModel
    from .signals import SignalHandler


class _Request(NamedTuple):
    """What one process requests."""

    stop: bool
    pause: bool
    reason: str
    signal: int | None
    save: bool
    failure: str | None


@dataclass(slots=True)
class Coordinator:
    """Makes each decision once for all processes, at points of the loop that all of them reach.

    A single process decides at once. Several processes exchange their requests when they
    synchronize: when they gather the values of training, after each epoch, and after an update
    during which one of them requested it. So a request within an epoch takes effect after the next
    update.

    Args:
        processes: The processes that train together.
        model: Its `stop_training` is a request before a synchronization, the decision after it.
        signals: A signal to one process counts as a signal to all.
        callbacks: Their `stopping_reason` and `pauses` are the reasons to stop.

    Attributes:
        save_requested: Whether this process requests a checkpoint.
        save: Whether the processes have decided to save; reset by what saves.
    """

    processes: Processes
    model: BaseModel
    signals: SignalHandler
    callbacks: list[Any]
    save_requested: bool = False
    save: bool = False
    _stopped: bool = False
    _pauses: bool = False
    _reason: str = ""

    @property
    def stopped(self) -> bool:
        """Whether training should stop."""
        # `stop_training` is set by callbacks of one process at any time. All must leave the loop
        # after the same batch, so it counts only once it was exchanged.
        if self.processes.is_distributed:
            return self._stopped
        return bool(self.model.stop_training)

    @property
    def requested(self) -> bool:
        """Whether this process requests a synchronization."""
        return bool(self.model.stop_training) or self.signals.pending or self.save_requested

    @property
    def pauses(self) -> bool:
        """Whether training stops for an outside reason, such as lack of time, and may resume."""
        return self._pauses if self.processes.is_distributed else self._pause_requested()

    @property
    def reason(self) -> str:
        """The reason why training stops, "" if none was given."""
        return self._reason if self.processes.is_distributed else self._local_reason()

    def synchronize(self, failure: NonFiniteError | None = None, part: object = None) -> list[Any]:
        """Exchange requests and decide; all processes must call this at the same point.

        Args:
            failure: An error of this process, which ends training in all processes.
            part: A value to gather in the same collective.

        Returns:
            The part of each process, in the order of the ranks.

        Raises:
            NonFiniteError: One of the processes has failed.
        """
        if not self.processes.is_distributed:
            return [part]
        local_request = _Request(
            bool(self.model.stop_training),
            self._pause_requested(),
            self._local_reason(),
            self.signals.pending_signal,
            self.save_requested,
            None if failure is None else str(failure),
        )
        # Requests and part share one collective, because each collective costs a round trip.
        gathered = self.processes.gather((tuple(local_request), part))
        requests = [_Request(*request) for request, _ in gathered]
        # Errors are raised only after the collective: a process that left before it would leave
        # the others waiting there.
        if failure is not None:
            raise failure
        for rank, request in enumerate(requests):
            if request.failure is not None:
                message = f"process {rank}: {request.failure}"
                raise NonFiniteError(message)
        # Each process computes the decision from the same requests, so all decide alike.
        self._stopped = self.model.stop_training = any(request.stop for request in requests)
        # A stop counts as a pause if any process must pause, as one that received a signal.
        self._pauses = any(request.pause for request in requests)
        self._reason = next((request.reason for request in requests if request.reason), "")
        self.save, self.save_requested = any(request.save for request in requests), False
        signal = next((request.signal for request in requests if request.signal is not None), None)
        if signal is not None:
            self.signals.adopt(signal)
        return [part for _, part in gathered]

    def begin(self) -> None:
        """Defer signals to the synchronizations, and check whether a stop is requested already."""
        self.signals.waits = self.processes.is_distributed
        self.synchronize()

    def _pause_requested(self) -> bool:
        # With several processes `requested` is True only after the exchange that this request is
        # part of.
        interrupted = (
            self.signals.pending if self.processes.is_distributed else self.signals.requested
        )
        return interrupted or any(
            getattr(callback, "pauses", False) and callback.stopping_reason
            for callback in self.callbacks
        )

    def _local_reason(self) -> str:
        reasons = (getattr(callback, "stopping_reason", "") for callback in self.callbacks)
        return next(filter(None, reasons), "")
