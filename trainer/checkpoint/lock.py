"""One writer per folder: a lock of the operating system, and a file that names its owner."""

from __future__ import annotations

import errno
import getpass
import json
import os
import socket
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fitorch import files as disk
from fitorch.errors import CheckpointError

if TYPE_CHECKING:
    from filelock import BaseFileLock


LOCK, _OS_LOCK, _SOFT_LOCK = "lock", ".lock", ".lock.soft"

# What flock raises on network file systems that do not implement it.
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


_ORPHANS = 15.0  # seconds that worker processes may outlive a process that was killed


class FolderLock:
    """Held while a fit writes into a folder; a context manager.

    The operating system holds the lock on the file `.lock`: across all containers of a host, and
    until the process ends, however it ends. The file `lock` records the owner, for messages and for
    hosts that do not share locks: the record of another host stands until someone deletes the
    file, because this host cannot check whether that process still runs.

    Args:
        folder: The folder; it must exist.

    Attributes:
        taken_from: The previous owner if it ended without releasing the lock, otherwise "".

    Raises:
        CheckpointError: On entering, if another process holds the lock; the message names its
            host, pid and start.
        CheckpointWriteError: On entering, if the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.taken_from = ""
        self._token = uuid.uuid4().hex
        self._lock: BaseFileLock | None = None

    def __enter__(self) -> FolderLock:
        try:
            # The lock comes before the record: only the holder may replace the record.
            self._lock = _acquire(self.path.parent)
            if self._lock is None and _is_gone(_read(self.path)):
                # Worker processes that were forked by an owner that was killed hold the lock too,
                # until they notice that their parent is gone: torch's look every 5 seconds.
                self._lock = _acquire(self.path.parent, patience=_ORPHANS)
            self._record_owner()
        except OSError as error:
            self._release()
            folder, reason = self.path.parent.absolute(), error.strerror
            message = f"{folder} is not writable for {_user()}: {reason}"
            raise disk.write_error(message, error) from error
        except BaseException:  # an interrupt too: the next fit of this process needs the lock
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Only the record of this fit is removed: another process may have taken the folder over
        # since.
        if _read(self.path).get("token") == self._token and self._is_owner():
            with suppress(OSError):
                self.path.unlink()
        self._release()

    def _record_owner(self) -> None:
        """Write who holds the lock, unless a process of another host may hold it.

        Raises:
            CheckpointError: This process did not get the lock.
        """
        previous = _read(self.path)
        # With the lock in hand, a record of this host is left over from a process that is gone. A
        # record of another host may not be: some network file systems keep locks local to a host.
        if self._lock is None or previous.get("host", _host()) != _host():
            owner = "another process trains into it"
            if previous:
                pid, host, since = (previous.get(name) for name in ("pid", "host", "since"))
                owner = f"process {pid} on {host} trains into it since {since}"
            message = (
                f"{self.path.parent} is in use: {owner}; pass another ckpt_path, or delete "
                f"{self.path} if that process is gone"
            )
            raise CheckpointError(message)
        if os.path.lexists(self.path):
            owner = f"process {previous.get('pid', '?')} of {previous.get('since', '?')}"
            self.taken_from = owner
        record = {
            "host": _host(),
            "pid": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "token": self._token,
        }
        # The replacement is atomic, so that a reader never sees half a record.
        disk.replace(self.path, json.dumps(record).encode())

    def _is_owner(self) -> bool:
        """Return whether this process took the lock; a forked child did not."""
        return self._lock is not None and self._lock.is_locked

    def _release(self) -> None:
        if self._lock is None:
            return
        file = Path(self._lock.lock_file)
        if self._is_owner() and file.name == _OS_LOCK:
            # Unlink before the release: later, the name may be that of another process's lock. A
            # process that has opened this file already notices the unlink, and opens a new one.
            with suppress(OSError):  # Windows cannot unlink an open file; there filelock does
                file.unlink()
        self._lock.release()
        self._lock = None


def _is_gone(record: dict[str, Any]) -> bool:
    """Return whether the owner of a lock was a process of this host that has ended."""
    if record.get("host") != _host() or not isinstance(record.get("pid"), int):
        return False
    import psutil  # type: ignore[import-untyped]

    try:
        return bool(psutil.Process(record["pid"]).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:  # it exists, but belongs to someone else
        return False


def _acquire(folder: Path, patience: float = 0.0) -> BaseFileLock | None:
    """Return the lock of a folder, None if another process or another fit holds it.

    Args:
        folder: The folder.
        patience: The number of seconds to wait for the lock.

    Raises:
        OSError: The folder is not writable.
    """
    from filelock import FileLock, Timeout

    path = folder / _OS_LOCK
    # Not by thread: a fit may end in another thread than the one that entered.
    lock: BaseFileLock = FileLock(
        path, timeout=patience, thread_local=False, fallback_to_soft=False
    )
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            # Here the existence of a file is the lock, and filelock checks whether its owner still
            # runs. One attempt removes the file of an owner that is gone, the next one creates it.
            from filelock import SoftFileLock

            path.unlink(missing_ok=True)
            lock = SoftFileLock(folder / _SOFT_LOCK, timeout=0.2, thread_local=False)
            lock.acquire()
    except Timeout:
        return None
    return lock


def _host() -> str:
    return socket.gethostname()


def _read(path: Path) -> dict[str, Any]:
    """Return the record of an owner, {} if the file holds none."""
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return "this user"
