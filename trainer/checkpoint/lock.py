"""One writer to a folder: a file that says who it is."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from fitorch.errors import CheckpointError
from fitorch.files import write_error

LOCK = "lock"

_PATIENCE = 10  # tenths of a second, for another process to write what it began


class FolderLock:
    """Held while a fit writes into a folder; a context manager.

    The lock of a process that is gone is taken over: by one, however many try. Whether a process of
    another host lives can't be told: its lock stands until somebody deletes the file.

    Args:
        folder: The folder, which is there.

    Attributes:
        taken_from: Who held the lock before and is gone, "" for nobody.

    Raises:
        CheckpointError: On entering: another process holds it; it names host, pid and since when.
        CheckpointWriteError: On entering: nothing can be written into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.taken_from = ""
        self._token = uuid.uuid4().hex

    def __enter__(self) -> FolderLock:
        own = self.path.with_name(f".{LOCK}.{self._token[:8]}.tmp")
        try:
            own.write_text(json.dumps(self._content()))
            self._take(own, self.path)
        except CheckpointError:
            raise
        except OSError as error:
            message = (
                f"{self.path.parent.absolute()} can't be written to by {_user()}: {error.strerror}"
            )
            raise write_error(message, error) from error
        finally:
            with suppress(OSError):
                own.unlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        held = _read(self.path)
        if held.get("token") == self._token and held.get("pid") == os.getpid():  # not in a fork
            with suppress(OSError):
                self.path.unlink()

    def _content(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "token": self._token,
        }

    def _take(self, own: Path, path: Path) -> None:
        """Put `own` in the place of `path`, which nobody has, or somebody who is gone.

        Whoever replaces a file takes a claim to that very content first, in the same way. So one
        replaces it, and who comes late finds another content.
        """
        if _create(own, path):
            return
        holder = _holder(path)
        if not holder and not os.path.lexists(path):  # it was just released
            self._take(own, path)
            return
        if _is_alive(holder):
            message = (
                f"{self.path.parent} is in use: process {holder.get('pid')} on "
                f"{holder.get('host')} trains into it since {holder.get('since')}; pass "
                f"another ckpt_path, or delete {self.path} if that process is gone"
            )
            raise CheckpointError(message)
        content = hashlib.sha256(json.dumps(holder).encode()).hexdigest()
        claim = self.path.with_name(f".{LOCK}.{content[:16]}.claim")
        self._take(own, claim)
        try:
            if _read(path) != holder or not os.path.lexists(path):
                message = f"{self.path.parent} was just taken into use by another process"
                raise CheckpointError(message)
            _write_again(own, path)
        finally:
            claim.unlink()
        self.taken_from = f"process {holder.get('pid', '?')} of {holder.get('since', '?')}"


def _create(own: Path, path: Path) -> bool:
    """Give `own` the name `path` too, complete from the first moment; say whether it was free."""
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        return _create_plainly(path, own.read_text())
    return True


def _create_plainly(path: Path, content: str) -> bool:
    try:
        with path.open("x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _write_again(own: Path, path: Path) -> None:
    """Replace `path` by a copy of `own`, complete from the first moment."""
    copy = own.with_suffix(".new")
    copy.write_text(own.read_text())
    copy.replace(path)


def _holder(path: Path) -> dict[str, Any]:
    """Return who holds a lock; one without links is there a moment before it is written."""
    for _ in range(_PATIENCE):
        found = _read(path)
        if found:
            return found
        time.sleep(0.1)
    return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Say whether the process that wrote a lock may still run."""
    pid = holder.get("pid")
    if type(pid) is not int or pid < 0:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    started = _start_of(pid)
    return started is not None and started == holder.get("started")


def _start_of(pid: int) -> float | None:
    """Return when a process began, None where there is none; numbers of processes come again.

    Linux tells it in ticks since the computer started, which no setting of the clock changes.
    """
    import psutil  # type: ignore[import-untyped]  # what accelerate brings

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            return float(stat.read_text().rpartition(")")[2].split()[19])
        return float(process.create_time())
    except (psutil.Error, OSError, OverflowError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return "this user"
