"""Save the training state of a fit: after epochs, within them, and on request."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fitorch.callbacks.base import Callback, Logs
from fitorch.checkpoint.checkpoint import Checkpoint
from fitorch.checkpoint.run_folder import RunFolder
from fitorch.checkpoint.store import CheckpointStore
from fitorch.checkpoint.writers import AsyncWriter, SyncWriter
from fitorch.distributed.dtensor import local_tensor
from fitorch.distributed.fsdp import is_sharded
from fitorch.errors import CheckpointWriteError, NonFiniteError
from fitorch.files import shown

from .fingerprint import fingerprint
from .snapshot import Snapshot

if TYPE_CHECKING:
    from fitorch.engine.run import Run


_MAX_FAILURES = 3  # in a row, if errors of saving are warnings


class CheckpointSaver(Callback):
    """Save a checkpoint after each epoch, and if a fit stops within one.

    It runs after all callbacks that have a state.

    Args:
        folder: The folder of the run.
        on_error: "raise", or "warn" if an error of writing should not end training; the third error
            in a row does.
        background: Whether to write copies in a thread while training continues.

    Attributes:
        newest: The folder of the newest checkpoint, None before the first.
        newest_step: The number of completed updates in it.
        run: The fit.
    """

    run: Run

    def __init__(
        self, folder: RunFolder, *, on_error: str = "raise", background: bool = False
    ) -> None:
        self.folder = folder
        self.newest: Path | None = None
        self.newest_step = 0
        self._saved: tuple[int, ...] | None = None  # see `_position`, of the last save
        self.resumed_from: Path | None = None
        self._on_error = on_error
        self._failures = 0
        self._writer = AsyncWriter(self._written) if background else SyncWriter(self._written)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save, unless the fit stopped within the epoch and saves that position itself."""
        if not self.run.cut_short:
            self.save()
        if self.run.coordinator.processes.is_main:
            self._attempt(lambda: self.folder.write_history(self.run.state.history.columns))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Wait until the last checkpoint is written."""
        self._attempt(self._writer.wait)

    def save(self, *, wait: bool = False) -> None:
        """Save the training state; call this between two updates.

        Args:
            wait: Whether to wait until the checkpoint is on the disk.

        Raises:
            NonFiniteError: Weights are NaN or infinite.
            CheckpointWriteError: Writing failed.
            CheckpointError: A state has a value that is not supported.
        """
        run = self.run
        # This waits for the device, and with a sharded net for the other processes.
        check_finite(run)
        # All processes take part: their random states and sums are gathered.
        snapshot = Snapshot.of(run.state.state_dict(), run.coordinator.processes)
        # The position is recorded before writing: if that fails, `_failures` makes `save_anew`
        # repeat the save.
        self._saved = self._position()
        parts, writer = snapshot.packed(), self._writer
        if isinstance(writer, AsyncWriter):  # training changes the tensors while the thread writes
            parts = {name: part.copied() for name, part in parts.items()}
        if snapshot.split or snapshot.parts is None:  # only the main thread may use collectives
            writer = SyncWriter(self._written)
        step, info = run.state.update.completed, info_of(run)
        # The resumed checkpoint stays until the fit ends: it is the last that is known to work.
        protected = [path for path in (self.resumed_from,) if path is not None]

        def write() -> Checkpoint | None:
            return snapshot.write(self.folder.store, step, parts, info, protected)

        self._attempt(lambda: writer.start(write))
        if wait:
            self._attempt(self._writer.wait)

    def save_anew(self) -> None:
        """Save the training state unless it is saved already; wait until it is on the disk.

        Raises:
            CheckpointError, NonFiniteError: See `save`.
        """
        # This waits for the thread that writes.
        self._attempt(self._writer.wait)  # a pending save may fail, and is then repeated
        due = self.newest is None or self._failures > 0 or self._saved != self._position()
        # A failed write is known to the main process alone, but all must save or none.
        if self.run.coordinator.processes.broadcast(due):
            self.save(wait=True)

    def _position(self) -> tuple[int, ...]:
        progress = self.run.progress
        return self.run.state.update.completed, progress.epochs, self.run.iterator.taken

    def try_encoding(self) -> None:
        """Check before the first step that a checkpoint can store all states.

        Raises:
            CheckpointError: A value is not supported; the message names its path.
        """
        # Packing checks the types of all values, and writes nothing.
        Snapshot.of(self.run.state.state_dict(), self.run.coordinator.processes).packed()

    def _written(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:  # only the main process has it
            return
        # This runs in the thread of training, so that callbacks do not run in another one.
        self.newest, self.newest_step = shown(checkpoint.path), checkpoint.step
        self._failures = 0
        for callback in self.run.state.callbacks:
            receive = getattr(callback, "on_checkpoint_saved", None)
            if receive is not None:
                receive(checkpoint.path)

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except CheckpointWriteError as error:
            self._failures += 1
            if self._on_error == "raise" or self._failures >= _MAX_FAILURES:
                raise
            warnings.warn(str(error), stacklevel=2)


class StepCheckpointSaver(CheckpointSaver):
    """Save within epochs too.

    Args:
        folder: The folder of the run.
        every_n_steps: Save after each update whose number is a multiple of this, or None.
        every_minutes: Save after the first update once so many minutes have passed, or None.
        **options: See `Saving`.
    """

    def __init__(
        self,
        folder: RunFolder,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(folder, **options)
        self._every = every_n_steps
        self._interval = None if every_minutes is None else 60 * every_minutes  # seconds

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start the clock."""
        self._seen, self._saved_at = self.run.state.update.completed, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save if a save is due."""
        step = self.run.state.update.completed
        if step == self._seen:  # within an accumulation window
            return
        self._seen = step
        due = self._every is not None and not step % self._every
        if self._interval is not None and not due:
            due = time.monotonic() - self._saved_at >= self._interval
        coordinator = self.run.coordinator
        # Updates are counted alike by all processes, so these saves need no agreement; clocks
        # differ.
        if due and coordinator.processes.is_distributed and step % (self._every or step + 1):
            coordinator.save_requested, due = (
                coordinator.processes.is_main,
                False,
            )  # clocks differ: all decide
        if due or coordinator.save:
            self._saved_at, coordinator.save = time.monotonic(), False
            self.save()


def save_to(path: str | Path, run: Run) -> Path:
    """Save the training state to its own folder, replacing the checkpoint there."""
    check_finite(run)
    store = CheckpointStore(path, keep=1)
    snapshot = Snapshot.of(run.state.state_dict(), run.coordinator.processes)
    saved = snapshot.write(store, run.state.update.completed, snapshot.packed(), info_of(run))
    # The processes wait until the main one has written.
    written = run.coordinator.processes.broadcast(None if saved is None else saved.path)
    assert isinstance(written, Path)
    return written


def info_of(run: Run) -> dict[str, Any]:
    """Return the facts for the manifest of a checkpoint."""
    progress, history = run.progress, run.state.history
    return {
        "run": run.model.run_id,
        "epoch": progress.epochs,
        "batch": progress.batches,
        "seed": progress.seed,
        "epochs": run.last_epoch,
        "stopped": run.stopped,
        "monitor": history.monitor,
        "value": plain_number(history.last.get(history.monitor)),
        **fingerprint(run),
    }


def plain_number(value: float | None) -> float | None:
    """Return a number that JSON supports, None for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


@torch.no_grad()
def check_finite(run: Run) -> None:
    """Raise an error if weights are NaN or infinite: no run can resume with them.

    Raises:
        NonFiniteError: Weights are not finite; the message names the parameters.
    """
    named = [(name, local_tensor(p)) for name, p in run.net.named_parameters() if p.requires_grad]
    wrong = [~p.isfinite().all() for _, p in named]
    names = []
    # One read from the device serves all parameters; only after a finding, each is read.
    if wrong and bool(torch.stack(wrong).any()):
        names = [name for (name, _), is_wrong in zip(named, wrong, strict=True) if is_wrong]
    if is_sharded(run.net):  # each rank has checked its shards
        # Every rank takes part, also one whose shards are finite.
        names = list(dict.fromkeys(chain(*run.coordinator.processes.gather(names))))
    if not names:
        return
    message = (
        f"after update {run.state.update.completed} the parameters {', '.join(names[:5])} "
        f"{'and others ' if len(names) > 5 else ''}are NaN or infinite; they are not saved"
    )
    raise NonFiniteError(message)
