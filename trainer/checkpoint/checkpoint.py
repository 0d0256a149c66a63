"""Verify and read a checkpoint."""

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
    """A folder with the name or the files of a checkpoint; nothing is verified yet.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def order(self) -> tuple[int, int]:
        """The sort key by age: the updates, then the number of the save at that update."""
        match = NAME.fullmatch(self.path.name)
        # Numbers are compared: names with more than ten digits do not sort as text.
        return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)

    @property
    def step(self) -> int:
        """The number of completed optimizer updates."""
        return self.order[0]

    def manifest(self) -> Manifest:
        """Return the checkpoint's manifest.

        Raises:
            CheckpointError: The manifest is missing or damaged.
        """
        return Manifest.open(self.path)

    def verify(self) -> Manifest:
        """Compare every file with its digest; return the manifest.

        Raises:
            CheckpointCorruptedError: A file is missing, or its content differs.
            CheckpointError: See `manifest`.
        """
        manifest = self.manifest()
        self._verify_shards(manifest.files)
        for name, digest in manifest.files.items():
            # Shards, whose names contain the folder, are verified above.
            if "/" not in name:
                disk.check(self.path / name, digest)
        return manifest

    def read(self) -> dict[str, Any]:
        """Return all parts, or raise if any file is damaged.

        Sharded tensors are returned in full.

        Raises:
            CheckpointCorruptedError: A file is missing, differs from its digest, or is not
                decodable.
            CheckpointError: See `manifest`.
        """
        parts: dict[str, Any] = shards.load_tensors(self.parts(), self.path / shards.FOLDER)
        return parts

    def parts(self, *, verified: bool = False) -> dict[str, Any]:
        """Return all parts, verified, with a `Shard` in place of each sharded tensor.

        Args:
            verified: Whether the files of those tensors are verified already.

        Raises:
            CheckpointError: See `read`.
        """
        files = self.manifest().files
        if not verified:
            self._verify_shards(files)
        # A part may have two files, of tensors and of values.
        names = sorted({name.rpartition(".")[0] for name in files if "/" not in name})
        return {name: self._part(name, files) for name in names}

    def _verify_shards(self, files: Mapping[str, FileDigest]) -> None:
        """Compare the files of sharded tensors with their digests.

        Raises:
            CheckpointCorruptedError: A file is missing, differs, or is not in the manifest.
        """
        listed = {name for name in files if "/" in name}
        folder = self.path / shards.FOLDER
        unlisted = {f"{shards.FOLDER}/{path.name}" for path in folder.glob("*")} - listed
        if unlisted:  # torch.distributed.checkpoint would read it too
            message = f"{self.path} has {min(unlisted)}, which is not in its manifest"
            raise CheckpointCorruptedError(message)
        for name in listed:
            disk.check(self.path / name, files[name])

    def _part(self, name: str, files: Mapping[str, FileDigest]) -> Any:
        # The bytes that were compared are those that are decoded: nothing is read twice, so that a
        # file that changes in between is noticed.
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
