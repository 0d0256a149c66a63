import errno
import fcntl
import json
import os
import signal
import socket
import time

import psutil
import pytest

from fitorch.checkpoint.lock import FolderLock
from fitorch.checkpoint.run_folder import RunFolder
from fitorch.checkpoint.store import CheckpointStore
from fitorch.errors import CheckpointError
from resume.forked import in_a_fork, start


def hold(folder, told, heard):
    os.close(heard[1])
    with FolderLock(folder):
        os.write(told, b"held")
        os.read(heard[0], 1)


class Held:
    """Another process that holds the lock of a folder."""

    def __init__(self, folder):
        told, heard = os.pipe(), os.pipe()
        self.pid, self.result = start(hold, folder, told[1], heard)
        os.close(told[1])
        assert os.read(told[0], 4) == b"held"
        os.close(told[0])
        os.close(heard[0])
        self.talk = heard[1]

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def finish(self):
        os.close(self.talk)
        os.waitpid(self.pid, 0)
        os.close(self.result)


def hold_fork_and_die(folder, told):
    """Write the number of a child that outlives this process."""
    FolderLock(folder).__enter__()
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    os.write(told, str(child).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def contend(folder, number, others, go):
    """Try to get the lock with all others; who has it holds it until all have tried."""
    while time.monotonic() < go:
        pass
    try:
        with FolderLock(folder / "run"):
            (folder / f"won {number}").touch()
            end = time.monotonic() + 20
            while len(list(folder.glob("* *"))) < others and time.monotonic() < end:
                time.sleep(0.01)
    except CheckpointError:
        (folder / f"lost {number}").touch()


def put(folder, **changes):
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": 1.0,
        "since": "2020-01-01T00:00:00+00:00",
        "token": "x",
        **changes,
    }
    (folder / "lock").write_text(json.dumps(content))


def test_the_file_tells_host_pid_and_time(tmp_path):
    with FolderLock(tmp_path):
        content = json.loads((tmp_path / "lock").read_text())
        assert content["host"] == socket.gethostname()
        assert content["pid"] == os.getpid()
        assert {path.name for path in tmp_path.iterdir()} == {"lock", ".lock"}
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_with_host_pid_and_since(tmp_path):
    process = Held(tmp_path)
    since = json.loads((tmp_path / "lock").read_text())["since"]
    with pytest.raises(CheckpointError) as caught, FolderLock(tmp_path):
        pass
    for words in (socket.gethostname(), str(process.pid), since, str(tmp_path), "ckpt_path"):
        assert words in str(caught.value)
    process.finish()
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from == ""


def test_the_lock_of_a_killed_process_is_taken_over_and_told(tmp_path):
    process = Held(tmp_path)
    since = json.loads((tmp_path / "lock").read_text())["since"]
    process.kill()
    process.finish()
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from == f"process {process.pid} of {since}"
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        assert {path.name for path in tmp_path.iterdir()} == {"lock", ".lock"}


def test_the_lock_of_a_killed_process_that_nobody_waited_for_is_taken_over(tmp_path):
    process = Held(tmp_path)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from
    process.finish()


def test_a_pid_that_another_process_has_now_does_not_hold_the_lock(tmp_path):
    put(tmp_path, pid=os.getppid())
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from == f"process {os.getppid()} of 2020-01-01T00:00:00+00:00"


def test_the_lock_of_another_host_stands(tmp_path):
    put(tmp_path, host="elsewhere", pid=2**30)
    with pytest.raises(CheckpointError, match="on elsewhere"), FolderLock(tmp_path):
        pass
    assert json.loads((tmp_path / "lock").read_text())["host"] == "elsewhere"


def test_the_same_process_may_not_hold_it_twice(tmp_path):
    with (
        FolderLock(tmp_path),
        pytest.raises(CheckpointError, match=f"process {os.getpid()}"),
        FolderLock(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_it_is_released_where_an_error_ends_the_block(tmp_path):
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_somebody_else_took_is_not_released(tmp_path):
    with FolderLock(tmp_path):
        put(tmp_path, host="elsewhere")
    assert json.loads((tmp_path / "lock").read_text())["host"] == "elsewhere"


def test_a_forked_child_does_not_release_its_parents_lock(tmp_path):
    with FolderLock(tmp_path) as lock:
        in_a_fork(lock.__exit__, None, None, None)
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"pid": "x"}',
        b'{"pid": 1e9}',
        b'{"pid": null}',
        b'{"pid": -1}',
        b'{"pid": true}',
        b'{"pid": 99999999999999999999999}',
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_record_that_names_nobody_is_replaced(tmp_path, content):
    if content.startswith(b'{"pid"'):
        content = content.replace(
            b"{", json.dumps({"host": socket.gethostname()})[:-1].encode() + b", "
        )
    (tmp_path / "lock").write_bytes(content)
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_pipe_or_a_dead_link_in_its_place_does_not_hang(tmp_path, make):
    make(tmp_path / "lock")
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_without_a_record_the_lock_of_the_operating_system_holds(tmp_path):
    process = Held(tmp_path)
    (tmp_path / "lock").unlink()  # by hand, or two containers that share nothing else
    with pytest.raises(CheckpointError, match="another process trains"), FolderLock(tmp_path):
        pass
    process.finish()


def test_a_record_of_a_live_process_without_the_lock_is_replaced(tmp_path):
    """Its number is that of a process in another container, or was reused."""
    put(tmp_path, pid=os.getppid())
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from


def test_a_child_of_a_killed_process_does_not_keep_the_lock(tmp_path):
    heard, told = os.pipe()
    process, result = start(hold_fork_and_die, tmp_path, told)
    child = int(os.read(heard, 99))
    try:
        os.waitpid(process, 0)
        with FolderLock(tmp_path) as lock:
            assert lock.taken_from.startswith(f"process {process} ")
    finally:
        os.kill(child, signal.SIGKILL)
        for pipe in (heard, told, result):
            os.close(pipe)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_it_works_where_the_file_system_has_no_locks(tmp_path, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    put(tmp_path)
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from
        with pytest.raises(CheckpointError, match="in use"), FolderLock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    process = Held(tmp_path)
    with pytest.raises(CheckpointError, match=f"process {process.pid}"), FolderLock(tmp_path):
        pass
    process.kill()
    process.finish()
    with FolderLock(tmp_path) as lock:
        assert lock.taken_from.startswith(f"process {process.pid} ")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_leftovers_are_removed_releases_the_folder(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "sweep", interrupted)
        with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path):
            pass
    with RunFolder(tmp_path) as folder:
        assert folder.notes == []


@pytest.mark.parametrize(
    "stale", ["", json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "token": "t"})]
)
def test_of_many_that_come_at_once_exactly_one_wins(tmp_path, stale):
    for trial in range(400 if os.environ.get("FITORCH_SOAK") == "1" else 5):
        folder = tmp_path / str(trial)
        (folder / "run").mkdir(parents=True)
        if stale:
            (folder / "run" / "lock").write_text(stale)
        go = time.monotonic() + 0.03
        children = [start(contend, folder, number, 8, go) for number in range(8)]
        for child, pipe in children:
            os.waitpid(child, 0)
            assert os.read(pipe, 9999) == b"None"
            os.close(pipe)
        assert sum(path.name.startswith("won") for path in folder.iterdir()) == 1
        assert list((folder / "run").iterdir()) == []
