"""Each call of a save may fail, disks be full, folders read-only: what was saved before stays."""

import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from checkpoint.saved import names, parts, steps
from fitorch.checkpoint import CheckpointStore
from fitorch.checkpoint.lock import FolderLock
from fitorch.errors import (
    CheckpointWriteError,
)
from resume.forked import in_a_fork

# What a save asks of the operating system; each can fail at each of its occurrences.


def _wrapped_write(original, check):
    """Open files whose write is checked too."""

    def opened(file, mode="r", *args, **options):
        check("open", file)
        handle = original(file, mode, *args, **options)
        if "b" in mode and "r" not in mode:
            write = handle.write

            class Checked:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    handle.close()

                def write(self, part):
                    check("write", file)
                    return write(part)

                def __getattr__(self, name):
                    return getattr(handle, name)

            return Checked()
        return handle

    return opened


class Faults:
    """Counts the calls below a folder, and lets the one numbered `at` fail."""

    def __init__(self, monkeypatch, root, at=None, code=errno.EIO):
        self.root, self.at, self.code = str(root), at, code
        self.calls = []
        self.on = True
        monkeypatch.setattr(io, "open", _wrapped_write(io.open, self.check))
        for module, name in (
            (os, "mkdir"),
            (os, "rename"),
            (os, "open"),
            (os, "fsync"),
            (os, "link"),
            (os, "replace"),
            (os, "unlink"),
            (os, "rmdir"),
            (os, "scandir"),
            (os, "listdir"),
            (os, "stat"),
            (shutil, "disk_usage"),
            (shutil, "rmtree"),
        ):
            monkeypatch.setattr(module, name, self.wrap(name, getattr(module, name)))

    def wrap(self, name, original):
        def called(*args, **options):
            self.check(name, args[0])
            return original(*args, **options)

        return called

    def check(self, name, path):
        if not self.on or not (isinstance(path, int) or str(path).startswith(self.root)):
            return
        self.calls.append((name, path if isinstance(path, int) else Path(path).name))
        if self.at == len(self.calls) - 1:
            raise OSError(
                self.code, os.strerror(self.code), None if isinstance(path, int) else str(path)
            )


@pytest.fixture
def two_saved(tmp_path):
    store = CheckpointStore(tmp_path / "run", keep=2)
    store.save(1, parts(1))
    store.save(2, parts(2))
    return store


def calls_of_a_save(monkeypatch, store):
    with monkeypatch.context() as patch:
        faults = Faults(patch, store.folder)
        store.save(3, parts(3))
        faults.on = False
    return faults.calls


def test_every_call_of_a_save_may_fail_once(tmp_path, two_saved, monkeypatch):
    shutil.copytree(two_saved.folder, tmp_path / "counted")
    calls = calls_of_a_save(monkeypatch, CheckpointStore(tmp_path / "counted", keep=2))
    kinds = {name for name, _ in calls}
    assert {"open", "write", "mkdir", "rename", "fsync", "disk_usage", "rmtree"} <= kinds
    renamed = next(i for i, (name, _) in enumerate(calls) if name == "rename")
    injected = 0
    for at in range(len(calls)):
        for code in (errno.ENOSPC, errno.EIO, errno.EACCES):
            folder = tmp_path / f"{at}-{code}"
            shutil.copytree(two_saved.folder, folder)
            store = CheckpointStore(folder, keep=2)
            with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                faults = Faults(patch, folder, at, code)
                try:
                    store.save(3, parts(3))
                    error = None
                except CheckpointWriteError as raised:
                    error = raised
                faults.on = False
            injected += len(faults.calls) > at
            check_after_fault(store, error, [str(w.message) for w in warned], code, at <= renamed)
    assert injected >= 30


def check_after_fault(store, error, warned, code, before_the_name):
    for checkpoint in store.list():  # whatever has a final name is whole
        assert checkpoint.read()["state"]["step"] == checkpoint.step
    assert store.newest_good().step in (2, 3)
    if error is not None:
        text = str(error)
        assert error.errno == code
        assert error.__cause__ is not None
        assert str(store.folder) in text
        assert os.strerror(code) in text
        assert errno.errorcode[code] in text
        assert "intact" in text
        assert (
            not [name for name in names(store.folder) if name.startswith(".tmp")] or before_the_name
        )
        assert store.newest_good().step == 2 or not before_the_name
    else:  # what fails once the name stands was no more than the removal of old ones
        assert store.newest_good().step == 3


def test_a_save_that_only_fails_to_remove_old_ones_warns(tmp_path, two_saved, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.warns(UserWarning, match="cannot remove .*step-0000000001.*Input/output"):
        two_saved.save(3, parts(3))
    assert steps(two_saved) == [3, 2]
    monkeypatch.undo()
    two_saved.sweep()
    assert names(two_saved.folder) == ["step-0000000002", "step-0000000003"]


def test_where_the_last_wait_for_the_disk_fails_the_checkpoint_stands_but_is_not_acknowledged(
    two_saved, monkeypatch
):
    original = os.fsync

    def fail_after_the_rename(handle):
        if len(two_saved.list()) == 3:
            raise OSError(errno.EIO, "Input/output error")
        original(handle)

    monkeypatch.setattr(os, "fsync", fail_after_the_rename)
    with pytest.raises(CheckpointWriteError, match="step-0000000002 is intact"):
        two_saved.save(3, parts(3))
    assert steps(two_saved) == [3, 2, 1]
    assert two_saved.newest_good().read()["state"]["step"] == 3


def mounted(path, size):
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True
    )
    return done.returncode == 0


def test_a_disk_that_is_full_from_the_start_is_told_before_anything_is_written(
    tmp_path, monkeypatch
):
    store = CheckpointStore(tmp_path)
    store.save(1, parts())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000))
    with pytest.raises(CheckpointWriteError) as caught:
        store.save(2, parts())
    needed = 40 * 40 * 4 + 3 * 8 + 8 + 7 * 4
    for words in (
        str(tmp_path),
        "No space left",
        "ENOSPC",
        f"{needed:,} bytes",
        "5,000 are free",
        "step-0000000001 is intact",
    ):
        assert words in str(caught.value)
    assert names(tmp_path) == ["step-0000000001"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("looks_first", [True, False])
def test_a_disk_that_is_really_full_leaves_the_earlier_one(tmp_path, monkeypatch, looks_first):
    disk = tmp_path / "disk"
    if not mounted(disk, 3_000_000):
        pytest.skip("mounting is not allowed here")
    try:
        store = CheckpointStore(disk / "run")
        state = {"model": {"w": torch.ones(500_000)}}
        store.save(1, state)
        if not looks_first:
            usage = shutil.disk_usage(disk)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))
        with pytest.raises(CheckpointWriteError, match="No space left") as caught:
            store.save(2, state)
        for words in (str(store.folder), "2,000,000 bytes", "free", "step-0000000001 is intact"):
            assert words in str(caught.value)
        assert names(store.folder) == ["step-0000000001"]
        assert torch.equal(store.newest_good().read()["model"]["w"], torch.ones(500_000))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def save_beyond_a_limit(store):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    with pytest.raises(CheckpointWriteError) as caught:
        store.save(2, {"model": {"w": torch.ones(500_000)}})
    return caught.value


def test_a_limit_on_file_sizes_leaves_the_earlier_one(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(1, parts(1))
    text = in_a_fork(save_beyond_a_limit, store)
    for words in (str(tmp_path), "File too large (EFBIG)", "2,000,000 bytes", "are free"):
        assert words in text
    assert text.endswith("step-0000000001 is intact")
    assert names(tmp_path) == ["step-0000000001"]
    assert store.newest_good().read()["state"]["step"] == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root becomes another")
def test_a_folder_that_is_read_only_is_told_with_its_path():
    def write(folder):
        os.setuid(65534)
        with pytest.raises(CheckpointWriteError) as store:
            CheckpointStore(folder).save(1, {"s": 1})
        with pytest.raises(CheckpointWriteError) as lock, FolderLock(Path(folder)):
            pass
        assert store.value.errno == lock.value.errno == errno.EACCES
        return f"{store.value}\n{lock.value}"

    with tempfile.TemporaryDirectory() as folder:
        with FolderLock(Path(folder)):  # imports what the other user may not read
            pass
        Path(folder).chmod(0o755)
        for line in in_a_fork(write, folder).splitlines():
            assert "Permission denied" in line
            assert folder in line
        assert names(Path(folder)) == []


def test_everything_is_on_the_disk_in_order_before_the_name_is(tmp_path, monkeypatch):
    """Each file, the manifest, the folder, then the name, then the folder that holds the name."""
    store = CheckpointStore(tmp_path / "run", keep=1)
    store.save(1, parts())
    trace = []
    fsync, rename, opened = os.fsync, os.rename, io.open

    def traced_fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        fsync(handle)
        trace.append(("fsync", path.name if path.is_file() else path.name[:5]))

    def traced_rename(source, target):
        rename(source, target)
        trace.append(("rename", Path(target).name[:6]))

    def traced_open(file, mode="r", *args, **options):
        if "r" not in mode:
            trace.append(("write", Path(file).name))
        return opened(file, mode, *args, **options)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    monkeypatch.setattr(io, "open", traced_open)
    store.save(2, parts())
    files = [
        "model.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "state.json",
        "manifest.json",
    ]
    written = [(kind, name) for name in files for kind in ("write", "fsync")]
    assert trace == [
        *written,
        ("fsync", ".tmp-"),
        ("rename", "step-0"),
        ("fsync", "run"),
        ("rename", ".trash"),
    ]
