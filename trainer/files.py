"""Files that are on the disk once they are written, and are what was written once they are read.

All input and output of checkpoints goes through here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import CheckpointCorruptedError, CheckpointWriteError, UnsafeCheckpointError

Bytes = bytes | memoryview

_PIECE = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was written.

    Args:
        bytes: Its size.
        sha256: The hexadecimal digest of its content.
    """

    bytes: int
    sha256: str


def write(path: Path, parts: Iterable[Bytes]) -> Entry:
    """Write a new file, and wait until it is on the disk.

    Raises:
        OSError: It is there already, or can't be written.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return Entry(size, digest.hexdigest())


def settle(path: Path) -> Entry:
    """Wait until a file that somebody else wrote is on the disk; return what it is.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        return Entry(size, _digest(file))


def replace(path: Path, content: bytes) -> None:
    """Write a file, replacing it only once all is on the disk.

    Raises:
        OSError: It can't be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary, [content])
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_error(message: str, cause: OSError) -> CheckpointWriteError:
    """Return the error to raise from `cause`, with the same number."""
    error = CheckpointWriteError(message)
    error.errno = cause.errno  # given to the class, it would not get there past RuntimeError
    return error


def make_folder(folder: Path) -> None:
    """Make a folder, with those that it is in, and wait until all their names are on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # which can't open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems can't
            raise
    finally:
        os.close(handle)


def rename(path: Path, target: Path) -> None:
    """Rename a folder or a file, and wait until that is on the disk."""
    path.rename(target)
    sync_folder(target.parent)


def remove(folder: Path) -> None:
    """Remove a folder; what is left of it, if anything, no longer looks like a checkpoint."""
    trash = folder.with_name(f".trash-{folder.name.lstrip('.')}-{uuid.uuid4().hex[:8]}")
    folder.rename(trash)
    shutil.rmtree(trash)


def read(path: Path, entry: Entry | None = None) -> bytes:
    """Read a whole file.

    Args:
        path: The file; it must be a plain one.
        entry: What it was when it was written, None where that is not known.

    Raises:
        CheckpointCorruptedError: It is missing, or another size or content than `entry` says.
        UnsafeCheckpointError: It is a link, or something else that is no plain file.
    """
    _look_at(path, entry)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if entry is not None:
        _compare(path, hashlib.sha256(content).hexdigest(), entry)
    return content


def check(path: Path, entry: Entry) -> None:
    """Compare a file with what was written, without having all of it in memory.

    Raises:
        CheckpointCorruptedError, UnsafeCheckpointError: See `read`.
    """
    _look_at(path, entry)
    try:
        with path.open("rb") as file:
            digest = _digest(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    _compare(path, digest, entry)


def _look_at(path: Path, entry: Entry | None) -> None:
    """Refuse what is no plain file, or of another size."""
    try:
        found = path.lstat()
    except OSError as error:
        message = f"{path} is missing ({error.strerror})"
        raise CheckpointCorruptedError(message) from error
    if not stat.S_ISREG(found.st_mode):
        message = f"{path} is a link or a special file; a checkpoint holds plain files alone"
        raise UnsafeCheckpointError(message)
    if entry is not None and found.st_size != entry.bytes:
        message = f"{path} has {found.st_size:,} bytes, but {entry.bytes:,} were written"
        raise CheckpointCorruptedError(message)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for piece in iter(lambda: file.read(_PIECE), b""):
        digest.update(piece)
    return digest.hexdigest()


def _compare(path: Path, digest: str, entry: Entry) -> None:
    if digest != entry.sha256:
        message = (
            f"{path} is not what was written: its sha256 is {digest[:12]}..., expected "
            f"{entry.sha256[:12]}..."
        )
        raise CheckpointCorruptedError(message)


def _unreadable(path: Path, error: OSError) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(f"{path} can't be read: {error.strerror}")


def shown(path: Path) -> Path:
    """Return a path as a message should show it: from the working directory, where it is in it."""
    with suppress(OSError):  # that folder may be gone
        here = Path.cwd()
        return path.relative_to(here) if path.is_relative_to(here) else path
    return path
