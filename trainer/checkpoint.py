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

import re
import shutil
import time
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import disk
from .disk import Entry
from .encoding import Encoder, as_tensor, decode
from .errors import (
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
)
from .manifest import MANIFEST, Manifest

_NAME = re.compile(r"step-(\d{10,})(?:\.(\d+))?")
_SPARE = 1.1  # of what is to be written must be free


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a checkpoint, ready to be written.

    Args:
        tree: What JSON holds, None where the part is nothing but named tensors.
        tensors: The tensors, by name.
    """

    tree: Any
    tensors: dict[str, Tensor]

    def copied(self) -> Part:
        """Return the part with tensors of its own, on the CPU."""
        return Part(self.tree, {name: _copy(tensor) for name, tensor in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that claims to be a checkpoint.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def order(self) -> tuple[int, int]:
        """What newer checkpoints have more of: the updates, then the times they were saved."""
        found = _NAME.fullmatch(self.path.name)
        return (int(found[1]), int(found[2] or 0)) if found else (-1, 0)

    @property
    def step(self) -> int:
        """Optimizer updates that were completed."""
        return self.order[0]

    def manifest(self) -> Manifest:
        """Return its table of contents.

        Raises:
            CheckpointError: There is none that is whole.
        """
        return Manifest.open(self.path)

    def verify(self) -> Manifest:
        """Compare every file with what was written; return the table of contents.

        Raises:
            CheckpointCorruptedError: A file is missing, or differs.
            CheckpointError: See `manifest`.
        """
        manifest = self.manifest()
        for name, entry in manifest.files.items():
            disk.read(self.path / name, entry)
        return manifest

    def read(self) -> dict[str, Any]:
        """Return all parts, verified: nothing is returned unless everything is whole.

        Raises:
            CheckpointCorruptedError: A file is missing, differs, or can't be decoded.
            CheckpointError: See `manifest`.
        """
        files = self.manifest().files
        names = sorted({name.rpartition(".")[0] for name in files})
        return {name: self._part(name, files) for name in names}

    def _part(self, name: str, files: Mapping[str, Entry]) -> Any:
        tensors: dict[str, Tensor] = {}
        path = self.path / f"{name}.safetensors"
        if path.name in files:
            tensors = disk.read_tensors(disk.read(path, files[path.name]), path)
        path = self.path / f"{name}.json"
        if path.name not in files:
            return tensors
        try:
            return decode(disk.read_json(disk.read(path, files[path.name]), path), tensors)
        except CheckpointCorruptedError as error:
            message = f"{path}: {error}"
            raise CheckpointCorruptedError(message) from error


class CheckpointStore:
    """A folder of checkpoints. Only one process may write into it.

    Args:
        folder: The folder; it is made when something is saved.
        keep: How many checkpoints are left after saving.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = Path(folder)
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
                are as they were.
            CheckpointError: A state holds something that can't be stored.
        """
        return self.write(step, pack(parts), info or {}, protected)

    def write(
        self,
        step: int,
        parts: Mapping[str, Part],
        info: Mapping[str, Any],
        protected: Collection[Path] = (),
    ) -> Checkpoint:
        """Write parts that are packed already; see `save`."""
        temporary = self.folder / f".tmp-{step:010d}-{uuid.uuid4().hex[:8]}"
        try:
            self._make_room(parts)
            temporary.mkdir()
            files = dict(_write(temporary, parts))
            manifest = Manifest(step, _version(), time.time(), files, dict(info))
            disk.write(temporary / MANIFEST, [manifest.seal()])
            disk.sync_folder(temporary)
            checkpoint = Checkpoint(self._free_name(step))
            disk.rename(temporary, checkpoint.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointWriteError(error.errno, self._failed(step, parts, error)) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._prune({checkpoint.path, *protected})
        return checkpoint

    def list(self) -> list[Checkpoint]:
        """Return what claims to be a checkpoint, the newest first; nothing is verified."""
        if not self.folder.is_dir():
            return []
        found = [Checkpoint(path) for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
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
            message = f"there is no checkpoint in {self.folder} ({self.folder.absolute()})"
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
            self.folder.mkdir(parents=True)
            disk.sync_folder(self.folder.parent)
        free, needed = shutil.disk_usage(self.folder).free, _size(parts)
        if free < _SPARE * needed:
            raise OSError(28, f"No space left on device ({free:,} bytes are free)")

    def _failed(self, step: int, parts: Mapping[str, Part], error: OSError) -> str:
        intact = next(iter(self.list()), None)
        older = "there is no earlier one" if intact is None else f"{intact.path.name} is intact"
        try:
            free = f"{shutil.disk_usage(self.folder).free:,}"
        except OSError:
            free = "an unknown number of"
        return (
            f"the checkpoint of step {step} can't be written to {self.folder.absolute()}: "
            f"{error.strerror or error}; it needs {_size(parts):,} bytes, {free} are free; {older}"
        )

    def _prune(self, protected: Collection[Path]) -> None:
        """Remove all but the newest; what is no checkpoint of ours stays."""
        for old in self.list()[self.keep :]:
            if old.path not in protected and (old.path / MANIFEST).is_file():
                try:
                    disk.remove(old.path)
                except OSError as error:
                    warnings.warn(f"{old.path} can't be removed: {error}", stacklevel=2)


def pack(parts: Mapping[str, Any]) -> dict[str, Part]:
    """Return states as they are written; their tensors are not copied.

    Raises:
        CheckpointError: A state holds something that can't be stored; it names the path to it.
    """
    packed = {}
    for name, state in parts.items():
        encoder = Encoder()
        tree = encoder.encode(state, name)
        packed[name] = Part(None if _is_plain(tree) else tree, encoder.tensors)
    return packed


def _write(folder: Path, parts: Mapping[str, Part]) -> Iterator[tuple[str, Entry]]:
    """Write the files of all parts; give the name of each, and what it is."""
    for name, part in parts.items():
        if part.tensors or part.tree is None:
            file = f"{name}.safetensors"
            yield file, disk.write(folder / file, disk.tensor_parts(part.tensors, {"format": "pt"}))
        if part.tree is not None:
            file = f"{name}.json"
            yield file, disk.write(folder / file, [disk.json_bytes(part.tree)])


def _size(parts: Mapping[str, Part]) -> int:
    return sum(disk.size_of(tensor) for part in parts.values() for tensor in part.tensors.values())


def _is_plain(tree: Any) -> bool:
    """Say whether a state is nothing but tensors with names of their own, as a net's mostly is."""
    return isinstance(tree, dict) and all(tree[name] == as_tensor(name) for name in tree)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _version() -> str:
    from . import __version__

    return __version__
