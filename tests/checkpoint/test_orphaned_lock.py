"""A process that is killed leaves workers behind, which hold its lock for a while."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from fitorch.checkpoint import lock
from fitorch.errors import CheckpointError

OWNER = """
    import os, sys, time
    from pathlib import Path
    from fitorch.checkpoint.lock import FolderLock
    FolderLock(Path(sys.argv[1])).__enter__()
    if os.fork() == 0:  # as a worker of a DataLoader, which looks for its parent now and then
        time.sleep(float(sys.argv[2]))
        os._exit(0)
    print("locked", flush=True)
    time.sleep(60)
"""


def killed_owner(folder, outlived):
    """Start a process that takes the lock and forks, and kill it; its child lives on."""
    script = [sys.executable, "-c", textwrap.dedent(OWNER), str(folder), str(outlived)]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "locked\n"
    process.send_signal(signal.SIGKILL)
    return process


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "a zombie"])
def test_the_lock_is_waited_for_until_the_workers_are_gone(tmp_path, reaped):
    process = killed_owner(tmp_path, outlived=1.0)
    if reaped:
        process.wait()
    else:
        time.sleep(0.2)
    with lock.FolderLock(tmp_path) as taken:
        assert str(process.pid) in taken.taken_from
    process.wait()


def test_the_lock_of_a_living_process_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_ORPHANS", 1e9)  # waiting would hang
    with lock.FolderLock(tmp_path), pytest.raises(CheckpointError, match=str(os.getpid())):
        lock.FolderLock(tmp_path).__enter__()
