"""The folder of a run: its checkpoints, the best weights, the history, and who writes into it."""

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

_OURS = (CHECKPOINTS, BEST, "best.loss.safetensors", HISTORY, "history.png")


class RunFolder:
    """What `fit(ckpt_path=...)` writes; a context manager that keeps other writers out.

    ::

        runs/ring/
          best.safetensors         the weights of the best epoch, for plain torch
          history.csv              a row per epoch
          lock                     while a fit writes
          checkpoints/             see `fitorch.checkpoint`

    Args:
        path: The folder; it is made on entering.
        keep: How many checkpoints are left.
        temporary: Whether all of it is deleted once training is complete.

    Attributes:
        complete: Whether training is.
        notes: What was done that a user should know, in sentences.

    Raises:
        CheckpointWriteError: On entering: the folder can't be written to.
        CheckpointError: On entering: another process trains into it.
    """

    def __init__(self, path: str | Path, keep: int = 2, *, temporary: bool = False) -> None:
        self.path = Path(path)
        self.complete = False
        self._temporary = temporary
        self.store = CheckpointStore(self.path / CHECKPOINTS, keep)
        self.notes: list[str] = []

    def __enter__(self) -> RunFolder:
        check_writable(self.path)
        self._lock = FolderLock(self.path)
        self._lock.__enter__()
        if self._lock.taken_from:
            self.notes.append(
                f"{self._lock.taken_from} ended without giving {self.path} back; it is taken over"
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
        if self.complete and self._temporary:
            self._clear()
        self._lock.__exit__(kind, error, traceback)
        if self.complete and self._temporary:
            with suppress(OSError):  # there are other files in it
                self.path.rmdir()

    @property
    def best(self) -> Path:
        """The file of the best weights."""
        return self.path / BEST

    def run_id(self) -> str | None:
        """Return which run the newest checkpoint is of, None where that can't be told."""
        newest = next(iter(self.store.list()), None)
        with suppress(CheckpointError):
            return None if newest is None else str(newest.manifest().info.get("run"))
        return None

    def set_aside(self) -> None:
        """Move what an earlier run left to `<path>.previous`; what was there makes way."""
        ours = [self.path / name for name in _OURS if (self.path / name).exists()]
        if not ours:
            return
        previous = self._previous()
        previous.mkdir(exist_ok=True)
        for name in _OURS:  # and nothing else that somebody may keep there
            _remove(previous / name)
        for path in ours:
            path.rename(previous / path.name)
        self.notes.append(f"the run that was in {self.path} is now in {previous}")

    def set_checkpoints_aside(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Move checkpoints that are not gone on with out of the way of those to come."""
        for checkpoint in checkpoints:
            target = self._previous() / CHECKPOINTS
            target.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target / checkpoint.path.name, ignore_errors=True)
            checkpoint.path.rename(target / checkpoint.path.name)
            self.notes.append(f"{checkpoint.path.name} is now in {target}")

    def write_history(self, columns: Mapping[str, Sequence[float]]) -> None:
        """Write the history as CSV.

        Raises:
            CheckpointWriteError: It can't be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            numbers = zip(columns, row, strict=True)
            writer.writerow([int(value) if name == "epoch" else value for name, value in numbers])
        path = self.path / HISTORY
        try:
            disk.replace(path, text.getvalue().encode())
        except OSError as error:
            message = f"{path.absolute()} can't be written: {error.strerror or error}"
            raise disk.write_error(message, error) from error

    def _clear(self) -> None:
        for checkpoint in self.store.list():
            disk.remove(checkpoint.path)
        with suppress(OSError):
            self.store.folder.rmdir()
        (self.path / HISTORY).unlink(missing_ok=True)

    def _previous(self) -> Path:
        whole = self.path.absolute()
        return whole.with_name(f"{whole.name}.previous")


def _remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Create the folder that will hold checkpoints, and try to write into it.

    Raises:
        CheckpointWriteError: It names the folder and the cause.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        cause = "there is a file of that name" if path.is_file() else error.strerror
        message = f"ckpt_path {path} ({path.absolute()}) can't be written to: {cause}"
        raise disk.write_error(message, error) from error
