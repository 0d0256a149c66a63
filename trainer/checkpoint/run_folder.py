"""The folder of a run: its checkpoints, the best weights, the history, and its lock."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fitorch import files as disk
from fitorch.errors import CheckpointError

from .checkpoint import Checkpoint
from .lock import FolderLock
from .store import CheckpointStore
from .weights import BEST

CHECKPOINTS = "checkpoints"

HISTORY = "history.csv"

_RUN_FILES = (CHECKPOINTS, BEST, "best.loss.safetensors", HISTORY, "history.png")


class RunFolder:
    """The files of `fit(ckpt_path=...)`; a context manager that locks the folder.

    ::

        runs/ring/
          best.safetensors         the weights of the best epoch, for plain torch
          history.csv              one row per epoch
          lock, .lock              while a fit writes
          checkpoints/             see `fitorch.checkpoint`

    Args:
        path: The folder; it is created on entering.
        keep: The number of checkpoints to keep.
        temporary: Whether to delete everything once training is complete.

    Attributes:
        complete: Whether training is complete.
        notes: Sentences for the user about files that were moved or taken over.

    Raises:
        CheckpointWriteError: On entering, if the folder is not writable.
        CheckpointError: On entering, if another process trains into it.
    """

    def __init__(self, path: str | Path, keep: int = 2, *, temporary: bool = False) -> None:
        self.path = Path(path)
        self.complete = False
        self._temporary = temporary
        self.store = CheckpointStore(self.path / CHECKPOINTS, keep)
        self.notes: list[str] = []

    def __enter__(self) -> RunFolder:
        check_writable(self.path)  # before the lock, for an error that names ckpt_path
        self._lock = FolderLock(self.path)
        # The lock is taken before anything in the folder changes.
        self._lock.__enter__()
        if self._lock.taken_from:
            self.notes.append(
                f"{self._lock.taken_from} ended without releasing {self.path}; it is taken over"
            )
        try:
            self.store.sweep()  # may take minutes on a slow disk, and be interrupted
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Files first, then the lock: the next owner must not find files that are about to go.
        if self.complete and self._temporary:
            self._clear()
        self._lock.__exit__(kind, error, traceback)
        if self.complete and self._temporary:
            with suppress(OSError):  # the user has other files in it
                self.path.rmdir()

    @property
    def best(self) -> Path:
        """The file of the best weights."""
        return self.path / BEST

    def run_id(self) -> str | None:
        """Return the run of the newest checkpoint, None if it is not known."""
        newest = next(iter(self.store.list()), None)
        with suppress(CheckpointError):
            return None if newest is None else str(newest.manifest().info.get("run"))
        return None

    def set_aside(self) -> None:
        """Move the files of an earlier run to `<path>.previous`, replacing those there."""
        files = [self.path / name for name in _RUN_FILES if (self.path / name).exists()]
        if not files:
            return
        previous = self._previous()
        # An earlier `previous` is replaced file by file, because it may hold other files of the
        # user.
        previous.mkdir(exist_ok=True)
        for name in _RUN_FILES:  # the user may keep other files there
            _remove(previous / name)
        for path in files:
            path.rename(previous / path.name)
        self.notes.append(f"moved the earlier run in {self.path} to {previous}")

    def set_checkpoints_aside(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Move checkpoints newer than the resumed one, whose names the new ones will have."""
        for checkpoint in checkpoints:
            target = self._previous() / CHECKPOINTS
            target.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target / checkpoint.path.name, ignore_errors=True)
            checkpoint.path.rename(target / checkpoint.path.name)
            self.notes.append(f"moved {checkpoint.path.name} to {target}")

    def write_history(self, columns: Mapping[str, Sequence[float]]) -> None:
        """Write the history as CSV.

        Raises:
            CheckpointWriteError: The file is not writable.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            numbers = zip(columns, row, strict=True)
            writer.writerow([int(value) if name == "epoch" else value for name, value in numbers])
        path = self.path / HISTORY
        try:
            # The replacement is atomic and fsynced: the old rows survive an interrupted write.
            disk.replace(path, text.getvalue().encode())
        except OSError as error:
            message = f"cannot write {path.absolute()}: {error.strerror or error}"
            raise disk.write_error(message, error) from error

    def _clear(self) -> None:
        for checkpoint in self.store.list():
            disk.remove(checkpoint.path)
        with suppress(OSError):  # leftovers of a save, which the next fit sweeps
            self.store.folder.rmdir()
        (self.path / HISTORY).unlink(missing_ok=True)

    def _previous(self) -> Path:
        path = self.path.absolute()
        return path.with_name(f"{path.name}.previous")


def _remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Create a folder, and check that it is writable.

    Raises:
        CheckpointWriteError: It is not; the message names the folder and the cause.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Only a write shows whether the folder is writable: permissions do not show quotas and
        # read-only mounts.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        cause = "a file has that name" if path.is_file() else error.strerror
        message = f"ckpt_path {path} ({path.absolute()}) is not writable: {cause}"
        raise disk.write_error(message, error) from error
