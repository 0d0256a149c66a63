"""Checkpoints on disk: written whole or not at all, verified before they are read.

A store is a folder of checkpoints, `step-0000000042` each, and independent of training::

    store = CheckpointStore("runs/ring/checkpoints", keep=2)
    store.save(42, {"model": net.state_dict(), "state": {"epoch": 3}})
    parts = store.newest_good().read()                  # {"model": {...}, "state": {...}}

In a checkpoint's folder each part is `<part>.safetensors` with its tensors and `<part>.json` with
all else, where there is any; `manifest.json` names the files with their sizes and digests, and is
written last. A folder gets its name only when everything in it is on the disk. Nothing is pickled.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fitorch import files as disk
from fitorch.errors import CheckpointCorruptedError, CheckpointError, CheckpointNotFoundError
from fitorch.files import FileDigest
from fitorch.version import __version__

from . import shards
from .checkpoint import NAME, Checkpoint
from .manifest import MANIFEST, Manifest
from .parts import Part, pack, size_of_parts, write_parts

_SPARE = 1.1  # of what is to be written must be free


class CheckpointStore:
    """A folder of checkpoints. Only one process may write into it.

    Args:
        folder: The folder; it is made when something is saved.
        keep: How many checkpoints are left after saving, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            message = f"keep is {keep}, expected at least 1: the checkpoint that was just saved"
            raise ValueError(message)
        self.folder = Path(folder).absolute()  # should the process go elsewhere in between
        self.keep = keep

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        info: Mapping[str, Any] | None = None,
        protected: Collection[Path] = (),
    ) -> Checkpoint:
        """Write a checkpoint; once this returns, it is on the disk.

        Args:
            step: Optimizer updates that were completed.
            parts: State of each part, by its name; plain values, tensors and NumPy arrays.
            info: What else there is to know before it is read: plain values.
            protected: Checkpoints that stay, however old.

        Raises:
            CheckpointWriteError: The disk is full, or anything else went wrong; earlier checkpoints
                are as they were. Where only the very last wait for the disk failed, the new one
                stands too: it is whole, but a power cut may undo it.
            CheckpointError: A state holds something that can't be stored.
        """
        return self.write(step, pack(parts), info or {}, protected)

    def write(
        self,
        step: int,
        parts: Mapping[str, Part],
        info: Mapping[str, Any],
        protected: Collection[Path] = (),
        write_shards: Callable[[Path], Mapping[str, FileDigest]] | None = None,
    ) -> Checkpoint:
        """Write parts that are packed already; see `save`.

        Args:
            step: See there.
            parts: See there.
            info: See there.
            protected: See there.
            write_shards: Writes tensors that are split into a folder; returns what it wrote.
        """
        temporary = self.folder / f".tmp-{step:010d}-{uuid.uuid4().hex[:8]}"
        checkpoint = Checkpoint(self.folder)
        try:
            self._make_room(parts)
            checkpoint = Checkpoint(self._free_name(step))
            temporary.mkdir()
            files = dict(write_parts(temporary, parts))
            if write_shards is not None:
                (temporary / shards.FOLDER).mkdir()
                files |= write_shards(temporary / shards.FOLDER)
                disk.sync_folder(temporary / shards.FOLDER)
            manifest = Manifest(step, __version__, time.time(), files, dict(info))
            disk.write(temporary / MANIFEST, [manifest.seal()])
            disk.sync_folder(temporary)
            disk.rename(temporary, checkpoint.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise disk.write_error(self._failed(step, parts, error, checkpoint), error) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        try:
            self._prune({checkpoint.path, *(Path(path).absolute() for path in protected)})
        except OSError as error:  # what was saved is safe
            warnings.warn(
                f"old checkpoints in {self.folder} can't be removed: {error}", stacklevel=2
            )
        return checkpoint

    def list(self) -> list[Checkpoint]:
        """Return what claims to be a checkpoint, the newest first; nothing is verified."""
        if not self.folder.is_dir():
            return []
        found = [Checkpoint(path) for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        return sorted(found, key=lambda checkpoint: checkpoint.order, reverse=True)

    def newest_good(self) -> Checkpoint:
        """Return the newest checkpoint that is whole; warn where newer ones are not.

        Raises:
            CheckpointNotFoundError: There is no checkpoint.
            CheckpointError: None of them is whole; it lists all, and what is wrong with each.
        """
        faults: dict[str, CheckpointError] = {}
        for checkpoint in self.list():
            try:
                checkpoint.verify()
            except CheckpointError as error:
                faults[checkpoint.path.name] = error
                continue
            if faults:
                listed = "; ".join(str(fault) for fault in faults.values())
                warnings.warn(
                    f"{checkpoint.path} is used, since what is newer is broken: {listed}",
                    stacklevel=2,
                )
            return checkpoint
        if not faults:
            message = f"there is no checkpoint in {self.folder}"
            raise CheckpointNotFoundError(message)
        listed = "\n".join(f"  {name}: {fault}" for name, fault in faults.items())
        kinds = {type(fault) for fault in faults.values()}
        kind = kinds.pop() if len(kinds) == 1 else CheckpointCorruptedError
        message = f"no checkpoint in {self.folder} can be used:\n{listed}"
        raise kind(message)

    def sweep(self) -> None:
        """Remove what interrupted saves left behind."""
        for path in self.folder.glob(".t*") if self.folder.is_dir() else ():
            if path.name.startswith((".tmp-", ".trash-")):
                shutil.rmtree(path, ignore_errors=True)

    def _free_name(self, step: int) -> Path:
        """Return a name that sorts behind all checkpoints of the same step."""
        again = [checkpoint.order[1] for checkpoint in self.list() if checkpoint.step == step]
        return self.folder / (f"step-{step:010d}" + (f".{max(again) + 1}" if again else ""))

    def _make_room(self, parts: Mapping[str, Part]) -> None:
        """Make the folder, and look whether the disk has room.

        Raises:
            OSError: It has not.
        """
        if not self.folder.is_dir():
            disk.make_folder(self.folder)
        if shutil.disk_usage(self.folder).free < _SPARE * size_of_parts(parts):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failed(
        self, step: int, parts: Mapping[str, Part], error: OSError, target: Checkpoint
    ) -> str:
        try:
            free = f"{shutil.disk_usage(self.folder).free:,}"
            older = [found.path.name for found in self._ours() if found != target]
        except OSError:  # a disk that fails may fail here too
            free, older = "an unknown number of", ["what was saved before"]
        return (
            f"the checkpoint of step {step} can't be written to {self.folder}: "
            f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no errno')}); it "
            f"needs {size_of_parts(parts):,} bytes, {free} are free; "
            + (f"{older[0]} is intact" if older else "there is no earlier one")
        )

    def _ours(self) -> Sequence[Checkpoint]:
        """Return the checkpoints that were written to their end, the newest first."""
        found = (checkpoint for checkpoint in self.list() if not checkpoint.path.is_symlink())
        return [checkpoint for checkpoint in found if (checkpoint.path / MANIFEST).is_file()]

    def _prune(self, protected: Collection[Path]) -> None:
        """Remove all but the newest; what is no checkpoint of ours stays."""
        for old in reversed(self._ours()[self.keep :]):
            if old.path not in protected:
                try:
                    disk.remove(old.path)
                except OSError as error:
                    warnings.warn(f"{old.path} can't be removed: {error}", stacklevel=2)
