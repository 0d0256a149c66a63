"""A checkpoint that is on the disk: verified, and read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fitorch import files as disk
from fitorch.errors import CheckpointCorruptedError
from fitorch.files import FileDigest

from . import shards
from .encoding import decode
from .manifest import Manifest
from .serialization import read_json, read_tensors

NAME = re.compile(r"step-([0-9]{10,})(?:\.([0-9]+))?")


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
        found = NAME.fullmatch(self.path.name)
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
        self._verify_shards(manifest.files)
        for name, entry in manifest.files.items():
            if "/" not in name:
                disk.check(self.path / name, entry)
        return manifest

    def read(self) -> dict[str, Any]:
        """Return all parts, verified: nothing is returned unless everything is whole.

        Tensors of a net that was split are put together.

        Raises:
            CheckpointCorruptedError: A file is missing, differs, or can't be decoded.
            CheckpointError: See `manifest`.
        """
        parts: dict[str, Any] = shards.filled(self.parts(), self.path / shards.FOLDER)
        return parts

    def parts(self, *, verified: bool = False) -> dict[str, Any]:
        """Return all parts, verified, with a `Shard` in the place of each tensor that was split.

        Args:
            verified: Whether the files of those tensors were compared already.

        Raises:
            CheckpointError: See `read`.
        """
        files = self.manifest().files
        if not verified:
            self._verify_shards(files)
        names = sorted({name.rpartition(".")[0] for name in files if "/" not in name})
        return {name: self._part(name, files) for name in names}

    def _verify_shards(self, files: Mapping[str, FileDigest]) -> None:
        """Compare the files of split tensors; whatever else lies beside them would be read too.

        Raises:
            CheckpointCorruptedError: One is missing, differs, or is not in the table.
        """
        named = {name for name in files if "/" in name}
        found = {f"{shards.FOLDER}/{path.name}" for path in (self.path / shards.FOLDER).glob("*")}
        if found - named:
            message = f"{self.path} holds {min(found - named)}, which its table does not name"
            raise CheckpointCorruptedError(message)
        for name in named:
            disk.check(self.path / name, files[name])

    def _part(self, name: str, files: Mapping[str, FileDigest]) -> Any:
        tensors: dict[str, Tensor] = {}
        path = self.path / f"{name}.safetensors"
        if path.name in files:
            tensors = read_tensors(disk.read(path, files[path.name]), path)
        path = self.path / f"{name}.json"
        if path.name not in files:
            return tensors
        try:
            return decode(read_json(disk.read(path, files[path.name]), path), tensors)
        except CheckpointCorruptedError as error:
            message = f"{path}: {error}"
            raise CheckpointCorruptedError(message) from error
