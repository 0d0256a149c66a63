"""What a checkpoint consists of: the file that is written last, and vouches for all others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fitorch.errors import (
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    UnsafeCheckpointError,
)
from fitorch.files import FileDigest, read

from .serialization import read_json, refuse_pickle
from .shards import FOLDER

MANIFEST = "manifest.json"

FORMAT = 1

_FILE = re.compile(rf"({FOLDER}/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,99}}\.(safetensors|json)")

_LARGEST = 2**23  # bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's table of contents.

    Args:
        step: Optimizer updates that were completed.
        version: Of fitorch, that wrote it.
        created: When, in seconds since 1970.
        files: Its files by name.
        info: What else there is to know before it is read: plain values.
    """

    step: int
    version: str
    created: float
    files: dict[str, FileDigest]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def seal(self) -> bytes:
        """Return the content of the file: the table as text, and the digest of that text.

        Raises:
            CheckpointError: `info` holds something else than plain values, or too many.
        """
        try:
            body = json.dumps({"format": FORMAT, **asdict(self)})
        except (TypeError, ValueError) as error:
            message = f"the info of a checkpoint is plain values alone: {error}"
            raise CheckpointError(message) from error
        digest = hashlib.sha256(body.encode()).hexdigest()
        content = json.dumps({"body": body, "sha256": digest}).encode()
        if len(content) > _LARGEST:
            message = f"the info of a checkpoint has {len(content):,} bytes, more than {_LARGEST:,}"
            raise CheckpointError(message)
        return content

    @classmethod
    def open(cls, folder: Path) -> Manifest:
        """Read the table of the checkpoint in `folder`.

        Raises:
            CheckpointNotFoundError: There is no such folder.
            CheckpointCorruptedError: There is none, since saving never finished, or it was changed.
            CheckpointVersionError: A newer fitorch wrote it.
            UnsafeCheckpointError: It names a file outside of the folder, or is a link, or the
                folder is a pickled file.
        """
        path = folder / MANIFEST
        try:
            _refuse_others(folder)
        except OSError as error:
            if isinstance(error, CheckpointNotFoundError):
                raise
            message = f"cannot read {path}: {error.strerror}"
            raise CheckpointCorruptedError(message) from error
        sealed = read_json(read(path), path)
        try:
            body, digest = sealed["body"], sealed["sha256"]
            if hashlib.sha256(body.encode()).hexdigest() != digest:
                message = f"{path} was changed: its own sha256 differs"
                raise CheckpointCorruptedError(message)
            return _parsed(read_json(body.encode(), path), path)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"{path} is no table of a checkpoint: {type(error).__name__}: {error}"
            raise CheckpointCorruptedError(message) from error


def is_file_name(name: str) -> bool:
    """Say whether a checkpoint may have a file of this name: a plain one, of a known kind.

    Those with parts of split tensors are in a folder of their own.
    """
    return _FILE.fullmatch(name) is not None and name != MANIFEST


def _refuse_others(folder: Path) -> None:
    """Raise an error that says what `folder` is, unless it is a folder with a table."""
    for path in (folder, folder / FOLDER):
        if path.is_symlink():
            message = f"{path} is a link; a checkpoint is a plain folder"
            raise UnsafeCheckpointError(message)
    if not folder.exists():
        beside = sorted(path.name for path in folder.parent.glob("*"))[:10]
        message = f"{folder} ({folder.absolute()}) is not there; beside it are {beside}"
        raise CheckpointNotFoundError(message)
    if folder.is_file():
        with folder.open("rb") as file:
            refuse_pickle(file.read(512), folder)
    path = folder / MANIFEST
    if not path.is_symlink() and not path.exists():
        message = f"{folder} has no {MANIFEST}: saving it never finished, or fitorch wrote it not"
        raise CheckpointCorruptedError(message)
    if path.lstat().st_size > _LARGEST:
        message = f"{path} has {path.lstat().st_size:,} bytes, more than any that is written"
        raise CheckpointCorruptedError(message)


def _parsed(body: Mapping[str, Any], path: Path) -> Manifest:
    version = str(body.get("version", "?"))[:50]
    if not isinstance(body["format"], int) or body["format"] > FORMAT:
        message = (
            f"{path} has format {body['format']!r:.50}, written by fitorch {version}; this version "
            f"reads formats up to {FORMAT}: upgrade with pip install -U fitorch"
        )
        raise CheckpointVersionError(message)
    files = {str(name): FileDigest(**entry) for name, entry in body["files"].items()}
    for name in files:
        if not is_file_name(name):
            message = f"{path} names {name!r:.200}, which is no safetensors or JSON of its folder"
            raise UnsafeCheckpointError(message)
    kinds: dict[str, Any] = {"step": int, "version": str, "created": (int, float), "info": dict}
    for name, kind in kinds.items():
        if not isinstance(body[name], kind):
            message = f"{name} is {body[name]!r:.200}"
            raise TypeError(message)
    for name, entry in body["files"].items():
        if type(entry["bytes"]) is not int or type(entry["sha256"]) is not str:
            message = f"file {name!r} is {entry!r:.200}"
            raise TypeError(message)
    return Manifest(body["step"], version, float(body["created"]), files, dict(body["info"]))
