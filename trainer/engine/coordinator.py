"""What the processes of a fit decide together: to stop, to pause, to save, that one has failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fitorch.errors import NonFiniteError

if TYPE_CHECKING:
    from fitorch.distributed.processes import Processes

    from .base_model import BaseModel
    from .signals import SignalHandler


class _Request(NamedTuple):
    """What one process wants."""

    stop: bool
    pause: bool
    reason: str
    signal: int | None
    save: bool
    failure: str | None


@dataclass(slots=True)
class Coordinator:
    """One decision for all processes, at moments that all of them reach.

    A process alone decides at once. Of several, each says what it wants when they meet: when they
    put together the figures of training, after each epoch, and after an update during which one
    asked for a meeting. So a request within an epoch comes true after the next update.

    Args:
        processes: Who decides.
        model: Its `stop_training` is a request, and becomes the decision.
        signals: A signal to any process is one to all.
        callbacks: Their `stopping_reason` and `pauses` tell why.

    Attributes:
        save_requested: Whether this process wants where training stands to be saved.
        save: Whether that was decided; whoever saves takes it back.
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
        """Whether training is to stop."""
        if self.processes.is_distributed:
            return self._stopped
        return bool(self.model.stop_training)

    @property
    def requested(self) -> bool:
        """Whether this process wants a meeting."""
        return bool(self.model.stop_training) or self.signals.pending or self.save_requested

    @property
    def pauses(self) -> bool:
        """Whether training stops for a reason that has nothing to do with it, as lack of time."""
        return self._pauses if self.processes.is_distributed else self._pause_requested()

    @property
    def reason(self) -> str:
        """Why training stops, "" where nobody told."""
        return self._reason if self.processes.is_distributed else self._own_reason()

    def synchronize(self, failure: NonFiniteError | None = None, part: Any = None) -> list[Any]:
        """Decide; every process must call this at the same moment.

        Args:
            failure: What went wrong in this process, which ends training in all.
            part: What else it has to tell.

        Returns:
            What each process had to tell, in their order.

        Raises:
            NonFiniteError: Something went wrong somewhere.
        """
        if not self.processes.is_distributed:
            return [part]
        told = None if failure is None else str(failure)
        own = _Request(
            bool(self.model.stop_training),
            self._pause_requested(),
            self._own_reason(),
            self.signals.pending_signal,
            self.save_requested,
            told,
        )
        everywhere = self.processes.gather((tuple(own), part))
        requests = [_Request(*request) for request, _ in everywhere]
        if failure is not None:
            raise failure
        for rank, request in enumerate(requests):
            if request.failure is not None:
                message = f"process {rank}: {request.failure}"
                raise NonFiniteError(message)
        self._stopped = self.model.stop_training = any(request.stop for request in requests)
        self._pauses = any(request.pause for request in requests)
        self._reason = next((request.reason for request in requests if request.reason), "")
        self.save, self.save_requested = any(request.save for request in requests), False
        signal = next((request.signal for request in requests if request.signal is not None), None)
        if signal is not None:
            self.signals.adopt(signal)
        return [part for _, part in everywhere]

    def begin(self) -> None:
        """Have the interrupt wait for meetings, and learn whether training is over already."""
        self.signals.waits = self.processes.is_distributed
        self.synchronize()

    def _pause_requested(self) -> bool:
        interrupted = (
            self.signals.pending if self.processes.is_distributed else self.signals.requested
        )
        return interrupted or any(
            getattr(callback, "pauses", False) and callback.stopping_reason
            for callback in self.callbacks
        )

    def _own_reason(self) -> str:
        reasons = (getattr(callback, "stopping_reason", "") for callback in self.callbacks)
        return next(filter(None, reasons), "")
