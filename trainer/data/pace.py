"""Whether worker processes would keep up with the net, by the times of reading and training."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_WORKERS = 8

_PATIENCE = 1.0  # seconds of reading before workers are considered

_MAX_TIME_RATIO = 0.8  # of the time per batch with workers to that without

_MIN_BATCH_SECONDS = 0.002  # below it, the transfer between processes would dominate

_PER_BYTE = 2e-9  # seconds for the transfer of large batches


@dataclass(slots=True)
class Pace:
    """Times for the reading of batches and for the work between them.

    Args:
        batches: The number of batches.
        reading: Seconds for their reading.
        working: Seconds between them.
    """

    batches: int = 0
    reading: float = 0.0
    working: float = 0.0

    @property
    def due(self) -> bool:
        """Whether reading has taken so much time that workers should be considered."""
        return self.reading >= _PATIENCE

    def add(self, reading: float, working: float) -> None:
        """Add the times of a batch."""
        self.batches += 1
        self.reading += reading
        self.working += working

    def workers(self, size: int, cpus: int, threads: int = 1) -> int:
        """Return the number of workers that keep up with the work, 0 if they do not save time.

        They save time if a batch then takes at most four fifths of the time. The expected time is
        the longest of: the reading divided by the number of workers, the work, and all CPU time
        divided by the number of CPUs.

        Args:
            size: The number of bytes in a batch.
            cpus: The number of usable CPUs.
            threads: The number of CPUs that the work uses.
        """
        read, work = self.reading / self.batches, self.working / self.batches
        # For small batches, the queue between processes costs more than reading.
        if read < _MIN_BATCH_SECONDS + _PER_BYTE * size:
            return 0
        count = min(math.ceil(min(read / max(work, 1e-9), MAX_WORKERS)) + 1, cpus, MAX_WORKERS)
        expected = max(read / count, work, (read + threads * work) / cpus)
        return count if expected <= _MAX_TIME_RATIO * (read + work) else 0
