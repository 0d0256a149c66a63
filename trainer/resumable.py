"""What a model knows of its training: how far it has come, to be saved and put back."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from .history import History
from .measuring import Measuring
from .resuming import restore_model
from .saving import save_to
from .state import Progress

if TYPE_CHECKING:
    from .compiled import Compilation


class Resumable(Measuring):
    """A model with a history, whose state can be saved and put back.

    Args:
        *args: As for `Measuring`.
        **options: As for `Measuring`.

    Attributes:
        progress: How far training has come, over all fits.
        run_id: What its checkpoints are known by.
    """

    optimizer: Optimizer | None
    lr_scheduler: Any
    compilation: Compilation | None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.history = History()
        self.progress = Progress()
        self.run_id = uuid.uuid4().hex

    @property
    def updates(self) -> int:
        """How many updates the optimizer made, over all fits and in the one under way."""
        return self.progress.updates if self.run is None else self.run.state.update.completed

    def reached(self) -> str:
        """Return how far training has come, in words."""
        return f"epoch {self.progress.epochs + 1}, with {self.updates} updates completed"

    def restore(self, path: str | Path) -> Path:
        """Put a checkpoint into the model: weights, optimizer, schedule, history, counters.

        The next `fit` goes on after the epochs that are completed there. To go on in the middle of
        an epoch, and with the same random numbers, use `fit(resume=path)`.

        Args:
            path: A checkpoint, or the folder of a run, whose newest is taken.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: There is none, it is broken, or it is of another net or optimizer.
        """
        return restore_model(self, path)

    def save_state(self, path: str | Path) -> Path:
        """Save all of the state of the fit that is under way, from within a callback.

        Args:
            path: A folder of its own, to go on with: `fit(resume=path)`.

        Returns:
            The checkpoint, a folder in it.

        Raises:
            RuntimeError: There is no fit under way, or it is between the batches of one update.
            CheckpointError: It can't be written, or a state can't be stored.
        """
        if self.run is None or self.within_update:
            where = "no fit is under way" if self.run is None else "an update is under way"
            message = f"save_state saves a fit between two updates, but {where}"
            raise RuntimeError(message)
        return save_to(path, self.run)

    @property
    def within_update(self) -> bool:
        """Whether a fit is under way and stands between the batches of one update."""
        return self.run is not None and not self.run.step.at_boundary
