"""What a checkpoint consists of: the file that is written last, and vouches for all others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .disk import Entry, read, read_json
from .errors import CheckpointCorruptedError, CheckpointVersionError, UnsafeCheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
_LARGEST = 2**26  # bytes


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
    files: dict[str, Entry]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def seal(self) -> bytes:
        """Return the content of the file: the table as text, and the digest of that text."""
        body = json.dumps({"format": FORMAT, **asdict(self)})
        digest = hashlib.sha256(body.encode()).hexdigest()
        return json.dumps({"body": body, "sha256": digest}).encode()

    @classmethod
    def open(cls, folder: Path) -> Manifest:
        """Read the table of the checkpoint in `folder`.

        Raises:
            CheckpointCorruptedError: There is none, since saving never finished, or it was changed.
            CheckpointVersionError: A newer fitorch wrote it.
            UnsafeCheckpointError: It names a file outside of the folder, or is a link.
        """
        path = folder / MANIFEST
        if folder.is_symlink():
            message = f"{folder} is a link; a checkpoint is a plain folder"
            raise UnsafeCheckpointError(message)
        if not path.is_symlink() and not path.exists():
            message = f"{folder} has no {MANIFEST}: saving it never finished"
            raise CheckpointCorruptedError(message)
        if path.lstat().st_size > _LARGEST:
            message = f"{path} has {path.lstat().st_size:,} bytes, more than any that is written"
            raise CheckpointCorruptedError(message)
        sealed = read_json(read(path), path)
        try:
            body, digest = sealed["body"], sealed["sha256"]
            if hashlib.sha256(body.encode()).hexdigest() != digest:
                message = f"{path} was changed: its own sha256 differs"
                raise CheckpointCorruptedError(message)
            return _parsed(read_json(body.encode(), path), path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"{path} is no table of a checkpoint: {type(error).__name__}: {error}"
            raise CheckpointCorruptedError(message) from error


def _parsed(body: Mapping[str, Any], path: Path) -> Manifest:
    version = str(body["version"])
    if not isinstance(body["format"], int) or body["format"] > FORMAT:
        message = (
            f"{path} has format {body['format']!r}, written by fitorch {version}; this version "
            f"reads formats up to {FORMAT}: upgrade with pip install -U fitorch"
        )
        raise CheckpointVersionError(message)
    files = {str(name): Entry(**entry) for name, entry in body["files"].items()}
    for name in files:
        if Path(name).name != name or "\\" in name or ":" in name or name in (".", "..", MANIFEST):
            message = f"{path} names {name!r}, which is no plain file of its folder"
            raise UnsafeCheckpointError(message)
    kinds = (int, str, (int, float), dict)
    for name, kind in zip(("step", "version", "created", "info"), kinds, strict=True):
        if not isinstance(body[name], kind):
            message = f"{name} is {body[name]!r}"
            raise TypeError(message)
    for name, entry in files.items():
        if not isinstance(entry.bytes, int) or not isinstance(entry.sha256, str):
            message = f"file {name!r} is {entry!r}"
            raise TypeError(message)
    return Manifest(body["step"], version, float(body["created"]), files, dict(body["info"]))
