import builtins
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoint.saved import names, parts, steps
from fitorch.checkpoint import Checkpoint, CheckpointStore, pack
from fitorch.errors import (
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    CheckpointWriteError,
)
from resume.forked import in_a_fork


def break_file(checkpoint, name="model.safetensors"):
    path = checkpoint.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_read(tmp_path):
    checkpoint = CheckpointStore(tmp_path).save(3, parts(3))
    back = checkpoint.read()
    assert torch.equal(back["model"]["w"], torch.full((40, 40), 3.0))
    assert back["optimizer"]["state"][0]["step"].item() == 3
    assert back["state"] == {"step": 3, "history": [0.5, float("inf")]}


def test_the_folder_holds_the_files_that_its_manifest_names(tmp_path):
    checkpoint = CheckpointStore(tmp_path).save(42, parts(), {"epoch": 3})
    assert checkpoint.path == tmp_path / "step-0000000042"
    files = {
        "model.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "state.json",
        "manifest.json",
    }
    assert set(names(checkpoint.path)) == files
    manifest = checkpoint.manifest()
    assert set(manifest.files) == files - {"manifest.json"}
    assert manifest.info == {"epoch": 3}
    assert manifest.step == 42
    body = json.loads(json.loads((checkpoint.path / "manifest.json").read_text())["body"])
    assert body["step"] == 42


def test_weights_load_in_plain_torch_without_fitorch(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    path = CheckpointStore(tmp_path).save(1, {"model": net.state_dict()}).path
    torch.save(net.state_dict(), tmp_path / "truth.pt")
    script = f"""
import sys, torch, safetensors.torch
net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
net.load_state_dict(safetensors.torch.load_file({str(path / "model.safetensors")!r}))
truth = torch.load({str(tmp_path / "truth.pt")!r}, weights_only=True)
assert all(torch.equal(value, truth[name]) for name, value in net.state_dict().items())
assert "fitorch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_checkpoints_are_listed_newest_first(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    for step in (5, 100, 20):
        store.save(step, parts(step))
    assert steps(store) == [100, 20, 5]


def test_steps_beyond_ten_digits_sort_as_numbers(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    for step in (10**10, 10**10 - 1, 10**11):
        store.save(step, {"s": step})
    assert steps(store) == [10**11, 10**10, 10**10 - 1]


def test_the_same_step_saved_again_is_newer_and_takes_nothing_away(tmp_path):
    store = CheckpointStore(tmp_path, keep=20)
    for i in range(12):
        store.save(4, {"s": i})
    assert [checkpoint.read()["s"] for checkpoint in store.list()] == list(range(11, -1, -1))
    assert store.newest_good().read()["s"] == 11


def test_only_the_newest_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(6):
        store.save(step, parts(step))
    assert names(tmp_path) == ["step-0000000004", "step-0000000005"]


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match=f"keep is {keep}"):
        CheckpointStore(tmp_path, keep)


def test_protected_checkpoints_stay_however_they_are_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore("run", keep=1)
    store.save(1, parts())
    store.save(2, parts(), protected=[Path("run/step-0000000001")])
    store.save(3, parts(), protected=[tmp_path / "run" / "step-0000000001", "run/step-0000000002"])
    store.save(4, parts(), protected=[tmp_path / "run" / "step-0000000001"])
    assert steps(store) == [4, 1]


def test_the_store_stays_where_it_is_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore("run")
    store.save(1, parts())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.save(2, parts())
    assert steps(store) == [2, 1]
    assert names(tmp_path / "elsewhere") == []


def test_what_was_just_saved_stays_even_if_older_than_all_others(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(9, parts())
    store.save(2, parts())
    assert 2 in steps(store)


def test_folders_without_our_manifest_are_never_removed_and_take_no_place(tmp_path):
    for foreign in ("step-0000000099", "step-0000000001", "checkpoint-1", "other"):
        (tmp_path / foreign).mkdir()
        (tmp_path / foreign / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "step-0000000098").write_text("a file")
    elsewhere = CheckpointStore(tmp_path / "other" / "run").save(50, parts())
    (tmp_path / "step-0000000050").symlink_to(elsewhere.path)
    before = names(tmp_path)
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(2, 6):
        store.save(step, parts())
    store.sweep()
    assert set(names(tmp_path)) - set(before) == {"step-0000000004", "step-0000000005"}
    assert set(before) < set(names(tmp_path))
    elsewhere.verify()


def test_sweeping_removes_what_interrupted_saves_left_and_nothing_else(tmp_path):
    store = CheckpointStore(tmp_path)
    store.sweep()
    store.save(1, parts())
    for left in (".tmp-0000000002-abc", ".trash-step-0000000000-abc"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tidy").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("x")
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "outside")
    store.sweep()
    assert set(names(tmp_path)) - {".tmp-link"} == {".tidy", "outside", "step-0000000001"}
    assert names(tmp_path / "outside") == ["x"]


def test_sweeping_a_folder_that_is_not_there_makes_none(tmp_path):
    CheckpointStore(tmp_path / "none").sweep()
    assert names(tmp_path) == []


def test_no_checkpoint_at_all_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="has no checkpoint") as caught:
        CheckpointStore(tmp_path / "x").newest_good()
    assert str(tmp_path / "x") in str(caught.value)


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_the_newest_good_one_is_used_and_all_newer_ones_named_with_the_reason(tmp_path, broken):
    store = CheckpointStore(tmp_path, keep=9)
    for step in range(5):
        store.save(step, parts(step))
    for checkpoint in store.list()[:broken]:
        break_file(checkpoint)
    with pytest.warns(UserWarning, match="damaged") as caught:
        good = store.newest_good()
    assert good.step == 4 - broken
    assert len(caught) == 1
    text = str(caught[0].message)
    for step in range(4 - broken, 5):
        assert f"step-{step:010d}" in text
    assert text.count("sha256") == broken


def test_where_all_are_broken_every_one_is_listed_with_its_reason(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    for step in range(4):
        store.save(step, parts(step))
    break_file(store.list()[0])
    (store.list()[1].path / "state.json").unlink()
    (store.list()[2].path / "manifest.json").unlink()
    with (store.list()[3].path / "state.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(CheckpointCorruptedError) as caught:
        store.newest_good()
    lines = str(caught.value).splitlines()[1:]
    for line, words in zip(lines, ["sha256", "missing", "did not finish", "bytes"], strict=True):
        assert words in line
    for step, line in zip((3, 2, 1, 0), lines, strict=True):
        assert f"step-{step:010d}" in line


def test_where_all_are_of_a_newer_format_the_error_is_of_that_kind(tmp_path, monkeypatch):
    monkeypatch.setattr("fitorch.checkpoint.manifest.FORMAT", 2)
    store = CheckpointStore(tmp_path)
    store.save(1, parts())
    monkeypatch.setattr("fitorch.checkpoint.manifest.FORMAT", 1)
    with pytest.raises(CheckpointVersionError, match="format 2"):
        store.newest_good()


def test_an_explicit_broken_checkpoint_raises(tmp_path):
    checkpoint = CheckpointStore(tmp_path).save(1, parts())
    break_file(checkpoint)
    with pytest.raises(CheckpointCorruptedError, match=r"model\.safetensors"):
        checkpoint.read()


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def zero(path, rng):
    content = bytearray(path.read_bytes())
    begin = rng.randrange(0, len(content), 4096)
    page = content[begin : begin + 4096]
    content[begin : begin + 4096] = bytes(len(page))
    path.write_bytes(content)


def truncate(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def extend(path, rng):
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 9)))


def remove(path, _rng):
    path.unlink()


@pytest.mark.parametrize("fault", [flip, zero, truncate, extend, remove])
def test_any_corruption_of_any_file_is_detected(tmp_path, fault):
    rng = random.Random(0)
    saved = CheckpointStore(tmp_path / "run").save(3, parts(3), {"x": [1, 2, 3]})
    for name in names(saved.path):
        for trial in range(1 if fault is remove else 50):
            folder = tmp_path / f"{name}-{trial}"
            shutil.copytree(saved.path, folder)
            fault(folder / name, rng)
            for act in (Checkpoint(folder).verify, Checkpoint(folder).read):
                with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
                    act()


def test_a_plain_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(CheckpointWriteError, match=r"File exists \(EEXIST\)") as caught:
        CheckpointStore(tmp_path / "run").save(1, parts())
    assert str(tmp_path / "run") in str(caught.value)


def test_a_state_that_cannot_be_stored_leaves_nothing(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(1, parts())
    for bad in ({"state": {"f": print}}, {"state": "x" * 2**26}, {"../x": {}}):
        with pytest.raises(CheckpointError):
            store.save(2, bad)
    with pytest.raises(CheckpointError, match="info"):
        store.save(2, parts(), {"x": object()})
    assert names(tmp_path) == ["step-0000000001"]


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(1, parts())

    def interrupt(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(2, parts())
    assert names(tmp_path) == ["step-0000000001"]


def save_under_watch(root, here):
    os.chdir(here)
    store = CheckpointStore("../run", keep=1)
    store.save(1, parts())
    touched = []
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event, args):
        if event == "open" and (set(args[1] or "") & set("wxa+") or args[2] & writes):
            touched.append(args[0])
        if event in ("os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"):
            touched.append(args[0])
        if event == "os.rename":
            touched.extend(args[:2])

    sys.addaudithook(hook)
    for step in range(2, 5):
        store.save(step, parts())
    store.newest_good().read()
    store.sweep()
    inside = {path.name for path in store.list()[0].path.iterdir()}  # rmtree names them by handle
    return [
        str(path)
        for path in (touched if len(touched) > 20 else ["nothing seen"])
        if str(path) not in inside and not os.path.abspath(path).startswith(f"{root}/run/")  # noqa: PTH100
    ]


def test_nothing_is_written_outside_of_the_folder(tmp_path, monkeypatch):
    """In a process of its own: what an audit hook sees, and what lies in $TMPDIR and here after."""
    for name in ("tmp", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert in_a_fork(save_under_watch, tmp_path, tmp_path / "here") == "[]"
    assert names(tmp_path / "tmp") == []
    assert names(tmp_path / "here") == []
    assert names(tmp_path) == ["here", "run", "tmp"]


def test_packed_copies_do_not_follow_the_net(tmp_path):
    weight = torch.ones(3)
    copied = {name: part.copied() for name, part in pack({"model": {"w": weight}}).items()}
    weight.zero_()
    CheckpointStore(tmp_path).write(1, copied, {})
    assert load_file(tmp_path / "step-0000000001" / "model.safetensors")["w"].tolist() == [1, 1, 1]


def test_builtins_open_is_what_pathlib_opens_with():
    """The wrappers above see a file only if this holds."""
    assert builtins.open is io.open
