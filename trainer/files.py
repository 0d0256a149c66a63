"""Files that survive a power cut once they are written, and are verified when they are read.

All input and output of checkpoints goes through this module.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import CheckpointCorruptedError, CheckpointWriteError, UnsafeCheckpointError

Bytes = bytes | memoryview

_CHUNK = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The size and the digest of a file's content.

    Args:
        bytes: The size.
        sha256: The hexadecimal digest.
    """

    bytes: int
    sha256: str


def write(path: Path, chunks: Iterable[Bytes]) -> FileDigest:
    """Write a new file, and wait until its content is on the disk.

    The name is not: call `sync_folder` once all files of a folder are written.

    Raises:
        OSError: The file exists already, or is not writable.
    """
    digest, size = hashlib.sha256(), 0
    # "x" refuses a file that exists already.
    with path.open("xb") as file:
        for chunk in chunks:
            # The digest is taken from memory, not read back: it describes what should be on the
            # disk.
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        # The first call empties Python's buffer, the second one the cache of the operating system.
        file.flush()
        # This waits for the disk.
        os.fsync(file.fileno())
    return FileDigest(size, digest.hexdigest())


def fsync(path: Path) -> FileDigest:
    """Wait until a file that another library wrote is on the disk; return its digest.

    Raises:
        OSError: The file is not readable.
    """
    with path.open("rb") as file:
        # This waits for the disk.
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        return FileDigest(size, _sha256(file))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces it once the block has written it.

    Readers see the old content or the new one, also after a power cut. If the block raises, the old
    content stays.

    Raises:
        OSError: The folder is not writable.
    """
    # The temporary file lies in the same folder, because a rename is atomic only within a file
    # system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        # Before the rename: a file system may write the new name first, and the content never.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # The rename is atomic: there is no moment without a file of this name.
        temporary.replace(path)
        # The new name is lost in a power cut until the folder is on the disk.
        sync_folder(path.parent)
    finally:
        # After a rename there is nothing to unlink.
        temporary.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file, replacing an old one only once the content is on the disk.

    Raises:
        OSError: The folder is not writable.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_error(message: str, cause: OSError) -> CheckpointWriteError:
    """Return the error to raise from `cause`, with the same number."""
    error = CheckpointWriteError(message)
    error.errno = cause.errno  # as an argument it would be lost: RuntimeError is the first base
    return error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and wait until all their names are on the disk."""
    # The missing folders are recorded before mkdir creates them.
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # This waits for the disk.
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems refuse
            raise
    finally:
        os.close(handle)


def rename(path: Path, target: Path) -> None:
    """Rename a file or a folder, and wait until the new name is on the disk."""
    path.rename(target)
    sync_folder(target.parent)


def remove(folder: Path) -> None:
    """Remove a folder, so that no interrupt leaves half of it under its name."""
    trash = folder.with_name(f".trash-{folder.name.lstrip('.')}-{uuid.uuid4().hex[:8]}")
    folder.rename(trash)  # what is left after an interrupt no longer looks like a checkpoint
    shutil.rmtree(trash)


def read(path: Path, expected: FileDigest | None = None) -> bytes:
    """Read a whole file.

    Args:
        path: The file; it must be a plain one.
        expected: The digest of what was written, None if it is not known.

    Raises:
        CheckpointCorruptedError: The file is missing, or its size or content differs.
        UnsafeCheckpointError: The path is a link, or another kind of special file.
    """
    _check_form(path, expected)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if expected is not None:
        _compare(path, hashlib.sha256(content).hexdigest(), expected)
    return content


def check(path: Path, expected: FileDigest) -> None:
    """Compare a file with what was written, without reading all of it into memory.

    Raises:
        CheckpointCorruptedError, UnsafeCheckpointError: See `read`.
    """
    _check_form(path, expected)
    try:
        with path.open("rb") as file:
            digest = _sha256(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    _compare(path, digest, expected)


def _check_form(path: Path, expected: FileDigest | None) -> None:
    """Raise an error unless the path is a plain file of the expected size."""
    try:
        # `stat` would follow a link, which could lead to any file of the machine.
        status = path.lstat()
    except OSError as error:
        message = f"{path} is missing ({error.strerror})"
        raise CheckpointCorruptedError(message) from error
    if not stat.S_ISREG(status.st_mode):
        message = f"{path} is a link or a special file; a checkpoint consists of plain files"
        raise UnsafeCheckpointError(message)
    # The size is compared before the content is read: a damaged file may be of any size.
    if expected is not None and status.st_size != expected.bytes:
        message = f"{path} has {status.st_size:,} bytes, but {expected.bytes:,} were written"
        raise CheckpointCorruptedError(message)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for chunk in iter(lambda: file.read(_CHUNK), b""):
        digest.update(chunk)
    return digest.hexdigest()


def _compare(path: Path, digest: str, expected: FileDigest) -> None:
    if digest != expected.sha256:
        message = (
            f"{path} is not what was written: its sha256 is {digest[:12]}..., expected "
            f"{expected.sha256[:12]}..."
        )
        raise CheckpointCorruptedError(message)


def _unreadable(path: Path, error: OSError) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(f"cannot read {path}: {error.strerror}")


def shown(path: Path) -> Path:
    """Return a path for messages: relative to the working directory if it lies inside."""
    with suppress(OSError):  # someone may have removed that folder
        working = Path.cwd()
        return path.relative_to(working) if path.is_relative_to(working) else path
    return path
