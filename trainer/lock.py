"""One writer to a folder: a file that says who it is."""

from __future__ import annotations

import json
import os
import socket
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import CheckpointError

LOCK = "lock"


class FolderLock:
    """Held while a fit writes into a folder; a context manager.

    The lock of a process that is gone is taken over. Whether a process of another host lives can't
    be told: its lock stands until somebody deletes the file.

    Args:
        folder: The folder, which is there.

    Attributes:
        taken_from: Who held the lock before and is gone, "" for nobody.

    Raises:
        CheckpointError: On entering: another process holds it; it names host, pid and since when.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.taken_from = ""
        self._token = uuid.uuid4().hex

    def __enter__(self) -> FolderLock:
        if not self._create():
            holder = _read(self.path)
            if _is_alive(holder):
                message = (
                    f"{self.path.parent} is in use: process {holder.get('pid')} on "
                    f"{holder.get('host')} trains into it since {holder.get('since')}; pass "
                    f"another ckpt_path, or delete {self.path} if that process is gone"
                )
                raise CheckpointError(message)
            self.taken_from = f"process {holder.get('pid', '?')} of {holder.get('since', '?')}"
            self.path.unlink(missing_ok=True)
            if not self._create():
                message = f"{self.path.parent} was just taken into use by another process"
                raise CheckpointError(message)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _read(self.path).get("token") == self._token:
            with suppress(OSError):
                self.path.unlink()

    def _create(self) -> bool:
        """Write the file, complete from the first moment; say whether there was none."""
        content = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "token": self._token,
        }
        own = self.path.with_name(f".{LOCK}.{self._token[:8]}.tmp")
        own.write_text(json.dumps(content))
        try:
            os.link(own, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return self._create_plainly(json.dumps(content))
        finally:
            own.unlink()
        return True

    def _create_plainly(self, content: str) -> bool:
        try:
            with self.path.open("x") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Say whether the process that wrote a lock may still run."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    if holder.get("host") != socket.gethostname():
        return True
    started = _start_of(pid)
    return started is not None and started == holder.get("started")


def _start_of(pid: int) -> float | None:
    """Return when a process began, None where there is none; numbers of processes come again."""
    import psutil  # what accelerate brings

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
