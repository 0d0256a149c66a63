"""The manifest of a checkpoint: the file that is written last and lists the digests of all."""

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

_MAX_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a checkpoint, and facts that are known before they are read.

    Args:
        step: The number of completed optimizer updates.
        version: The version of fitorch that wrote the checkpoint.
        created: The time of writing, in seconds since 1970.
        files: The digests of the files by name.
        info: Other facts: plain values.
    """

    step: int
    version: str
    created: float
    files: dict[str, FileDigest]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(digest.bytes for digest in self.files.values())

    def seal(self) -> bytes:
        """Return the content of the file: the manifest as text, and the digest of that text.

        Raises:
            CheckpointError: `info` has values that are not plain, or too many.
        """
        try:
            body = json.dumps({"format": FORMAT, **asdict(self)})
        except (TypeError, ValueError) as error:
            message = f"the info of a checkpoint must consist of plain values: {error}"
            raise CheckpointError(message) from error
        # The text itself is signed, not its values: a reader compares it before it parses it.
        digest = hashlib.sha256(body.encode()).hexdigest()
        content = json.dumps({"body": body, "sha256": digest}).encode()
        if len(content) > _MAX_BYTES:
            message = (
                f"the info of a checkpoint has {len(content):,} bytes, more than {_MAX_BYTES:,}"
            )
            raise CheckpointError(message)
        return content

    @classmethod
    def open(cls, folder: Path) -> Manifest:
        """Read the manifest of the checkpoint in `folder`.

        Raises:
            CheckpointNotFoundError: The folder does not exist.
            CheckpointCorruptedError: The manifest is missing because saving did not finish, or was
                changed.
            CheckpointVersionError: A newer version of fitorch wrote the checkpoint.
            UnsafeCheckpointError: The manifest names a file outside of the folder, or is a link; or
                the folder is a pickled file.
        """
        path = folder / MANIFEST
        try:
            _check_folder(folder)
        except OSError as error:
            if isinstance(error, CheckpointNotFoundError):
                raise
            message = f"cannot read {path}: {error.strerror}"
            raise CheckpointCorruptedError(message) from error
        sealed = read_json(read(path), path)
        try:
            body, digest = sealed["body"], sealed["sha256"]
            # The digest is compared before the body is parsed.
            if hashlib.sha256(body.encode()).hexdigest() != digest:
                message = f"{path} was changed: its sha256 differs"
                raise CheckpointCorruptedError(message)
            return _parsed(read_json(body.encode(), path), path)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"{path} is not the manifest of a checkpoint: {type(error).__name__}: {error}"
            raise CheckpointCorruptedError(message) from error


def is_file_name(name: str) -> bool:
    """Return whether a checkpoint may have a file of this name, which contains no path.

    Only shards of tensors are in a subfolder.
    """
    return _FILE.fullmatch(name) is not None and name != MANIFEST


def _check_folder(folder: Path) -> None:
    """Raise an error that describes `folder` unless it is a folder with a manifest."""
    # Links are refused before they are followed.
    for path in (folder, folder / FOLDER):
        if path.is_symlink():
            message = f"{path} is a link; expected a folder"
            raise UnsafeCheckpointError(message)
    if not folder.exists():
        beside = sorted(path.name for path in folder.parent.glob("*"))[:10]
        message = f"{folder} ({folder.absolute()}) does not exist; its parent contains {beside}"
        raise CheckpointNotFoundError(message)
    if folder.is_file():
        with folder.open("rb") as file:
            refuse_pickle(file.read(512), folder)
    # A folder without a manifest is a save that did not finish: the manifest is written last.
    path = folder / MANIFEST
    # `exists` follows links; `read` refuses them with a better message.
    if not path.is_symlink() and not path.exists():
        message = f"{folder} has no {MANIFEST}: saving did not finish, or fitorch did not write it"
        raise CheckpointCorruptedError(message)
    if path.lstat().st_size > _MAX_BYTES:
        message = f"{path} has {path.lstat().st_size:,} bytes, more than any manifest"
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
            message = f"{path} names {name!r:.200}, which is not a file of its folder"
            raise UnsafeCheckpointError(message)
    kinds: dict[str, Any] = {"step": int, "version": str, "created": (int, float), "info": dict}
    for name, kind in kinds.items():
        if not isinstance(body[name], kind):
            message = f"{name} is {body[name]!r:.200}"
            raise TypeError(message)
    for name, entry in body["files"].items():
        # The types are checked, because a dataclass accepts any.
        if type(entry["bytes"]) is not int or type(entry["sha256"]) is not str:
            message = f"file {name!r} is {entry!r:.200}"
            raise TypeError(message)
    return Manifest(body["step"], version, float(body["created"]), files, dict(body["info"]))
