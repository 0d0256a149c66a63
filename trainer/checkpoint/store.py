"""A folder of checkpoints: write them, find the newest intact one, remove old ones."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping
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
from .retention import completed, remove_old

_MARGIN = 1.1  # of the bytes to write must be free


class CheckpointStore:
    """A folder of checkpoints. Only one process may write into it.

    Args:
        folder: The folder; it is created at the first save.
        keep: The number of checkpoints that a save keeps, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            message = f"keep is {keep}, expected at least 1: the checkpoint that was just saved"
            raise ValueError(message)
        self.folder = Path(folder).absolute()  # the working directory may change
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
            step: The number of completed optimizer updates.
            parts: The state of each part by name: plain values, tensors and NumPy arrays.
            info: Facts for the manifest: plain values.
            protected: Checkpoints that are kept, however old.

        Raises:
            CheckpointWriteError: The disk is full, or writing failed; earlier checkpoints are
                unchanged. If only the last fsync failed, the new one exists and is intact, but a
                power cut may undo it.
            CheckpointError: A state has a value that is not supported.
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
            step: See `save`.
            parts: The packed parts.
            info: See `save`.
            protected: See `save`.
            write_shards: Writes the sharded tensors into a folder; returns the digests.
        """
        # A crash at any line leaves a folder that no reader takes for a checkpoint: it has another
        # name until the last line, and no manifest until all its files are on the disk.
        # The random suffix matters if an earlier attempt at this step has left a folder.
        temporary = self.folder / f".tmp-{step:010d}-{uuid.uuid4().hex[:8]}"
        checkpoint = Checkpoint(self.folder)
        try:
            # The space is checked before anything is written.
            self._make_room(parts)
            checkpoint = Checkpoint(self._free_name(step))
            temporary.mkdir()
            files = dict(write_parts(temporary, parts))
            if write_shards is not None:
                (temporary / shards.FOLDER).mkdir()
                files |= write_shards(temporary / shards.FOLDER)
                # This waits until the names of the shards are on the disk.
                disk.sync_folder(temporary / shards.FOLDER)
            manifest = Manifest(step, __version__, time.time(), files, dict(info))
            # The manifest is the last file: a folder with a manifest is complete.
            disk.write(temporary / MANIFEST, [manifest.seal()])
            disk.sync_folder(temporary)  # the names of its files, before its own
            # From here on the checkpoint exists.
            disk.rename(temporary, checkpoint.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise disk.write_error(self._failed(step, parts, error, checkpoint), error) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        try:
            kept = {checkpoint.path, *(Path(path).absolute() for path in protected)}
            remove_old(self.list(), self.keep, kept)
        except OSError as error:  # the new checkpoint is on the disk
            warnings.warn(f"cannot remove old checkpoints in {self.folder}: {error}", stacklevel=2)
        return checkpoint

    def list(self) -> list[Checkpoint]:
        """Return the checkpoints, newest first; they are not verified."""
        if not self.folder.is_dir():
            return []
        paths = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        return sorted(map(Checkpoint, paths), key=lambda each: each.order, reverse=True)

    def newest_good(self) -> Checkpoint:
        """Return the newest intact checkpoint; warn if newer ones are damaged.

        Raises:
            CheckpointNotFoundError: There is no checkpoint.
            CheckpointError: All checkpoints are damaged; the message lists them with the reasons.
        """
        faults: dict[str, CheckpointError] = {}
        for checkpoint in self.list():
            try:
                # This reads every byte of the files.
                checkpoint.verify()
            except CheckpointError as error:
                faults[checkpoint.path.name] = error
                continue
            if faults:
                listed = "; ".join(str(fault) for fault in faults.values())
                warnings.warn(
                    f"using {checkpoint.path}, because newer checkpoints are damaged: {listed}",
                    stacklevel=2,
                )
            return checkpoint
        if not faults:
            message = f"{self.folder} has no checkpoint"
            raise CheckpointNotFoundError(message)
        listed = "\n".join(f"  {name}: {fault}" for name, fault in faults.items())
        classes = {type(fault) for fault in faults.values()}
        error_class = classes.pop() if len(classes) == 1 else CheckpointCorruptedError
        message = f"all checkpoints in {self.folder} are damaged:\n{listed}"
        raise error_class(message)

    def sweep(self) -> None:
        """Remove the leftovers of interrupted saves."""
        for path in self.folder.glob(".t*") if self.folder.is_dir() else ():
            if path.name.startswith((".tmp-", ".trash-")):
                shutil.rmtree(path, ignore_errors=True)

    def _free_name(self, step: int) -> Path:
        """Return a path that sorts after all checkpoints of the same step."""
        # A resumed fit may save the same step again; both stay until one is pruned.
        saves = [checkpoint.order[1] for checkpoint in self.list() if checkpoint.step == step]
        return self.folder / (f"step-{step:010d}" + (f".{max(saves) + 1}" if saves else ""))

    def _make_room(self, parts: Mapping[str, Part]) -> None:
        """Create the folder, and check the free space of the disk.

        Raises:
            OSError: The disk does not have enough free space.
        """
        if not self.folder.is_dir():
            disk.make_folder(self.folder)
        if shutil.disk_usage(self.folder).free < _MARGIN * size_of_parts(parts):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failed(
        self, step: int, parts: Mapping[str, Part], error: OSError, target: Checkpoint
    ) -> str:
        try:
            free = f"{shutil.disk_usage(self.folder).free:,}"
            older = [each.path.name for each in completed(self.list()) if each != target]
        except OSError:  # a failing disk may fail here too
            free, older = "an unknown number of", ["the earlier checkpoint"]
        return (
            f"cannot write the checkpoint of step {step} to {self.folder}: "
            f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no errno')}); it "
            f"needs {size_of_parts(parts):,} bytes, {free} are free; "
            + (f"{older[0]} is intact" if older else "there is no earlier one")
        )
