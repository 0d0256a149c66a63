import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fitorch import files as disk
from fitorch.checkpoint import serialization as formats
from fitorch.errors import CheckpointCorruptedError, CheckpointError, UnsafeCheckpointError
from fitorch.files import FileDigest

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]
NAMES = [
    "a",
    "layer.0.weight",
    "ä",
    "雪",
    "🙂",
    'say "x"',
    "back\\slash",
    "new\nline",
    "",
    " ",
    "\x00",
    "__meta__",
]


def numbers(dtype, shape=(3, 5)):
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (*shape, dtype.itemsize)).byte()
    return raw.reshape(-1).view(dtype).reshape(shape)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def equal(a, b):
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and bits(a[name]) == bits(b[name])
        for name in a
    )


def save(path, tensors, metadata=None):
    return disk.write(path, formats.tensor_parts(tensors, metadata or {}))


MIXED = {
    **{f"{name}.{i}": numbers(DTYPES[i % len(DTYPES)]) for i, name in enumerate(NAMES)},
    **{str(dtype): numbers(dtype) for dtype in DTYPES},
    "scalar": torch.tensor(3.5),
    "none": torch.zeros(0, 4),
}


def test_safetensors_own_functions_read_all_types_and_names_bit_for_bit(tmp_path):
    save(tmp_path / "x", MIXED, {"format": "pt", "note": 'ü"\n'})
    assert equal(MIXED, load_file(tmp_path / "x"))
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": 'ü"\n'}
        assert equal(MIXED, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def test_we_read_what_safetensors_itself_writes(tmp_path):
    save_file(MIXED, tmp_path / "x")
    assert equal(MIXED, formats.read_tensors((tmp_path / "x").read_bytes(), tmp_path / "x"))


def test_numbers_lie_where_safetensors_own_function_puts_them(tmp_path):
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 2), "c": torch.ones(1, dtype=torch.float64)}
    save(tmp_path / "ours", tensors, {"format": "pt"})
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})

    def header(path):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        assert size % 8 == 0
        return json.loads(content[8 : 8 + size]), content[8 + size :]

    assert header(tmp_path / "ours") == header(tmp_path / "theirs")


def test_no_tensors_at_all_are_a_file_that_safetensors_reads(tmp_path):
    save(tmp_path / "x", {})
    assert load_file(tmp_path / "x") == {}
    assert formats.read_tensors((tmp_path / "x").read_bytes(), tmp_path / "x") == {}


def test_headers_of_every_length_are_read(tmp_path):
    """A header of 640 bytes begins as a pickle does: 0x80 0x02."""
    lengths = set()
    for length in range(1, 800, 4):
        tensors = {"w" * length: torch.tensor([1.5])}
        content = b"".join(formats.tensor_parts(tensors, {}))
        lengths.add(content[:2])
        assert equal(tensors, formats.read_tensors(content, Path("x")))
    assert b"\x80\x02" in lengths


def test_views_and_gradients_are_written_as_plain_numbers(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    negative = torch.randn(3, dtype=torch.complex64).conj().imag
    tensors = {
        "t": base.T,
        "s": base[:, 1::2],
        "e": torch.ones(1).expand(3),
        "n": negative,
        "p": torch.nn.Parameter(base.clone()),
    }
    save(tmp_path / "x", tensors)
    for name, tensor in load_file(tmp_path / "x").items():
        assert torch.equal(tensor, tensors[name].detach())


def test_an_entry_tells_size_and_digest_of_the_file(tmp_path):
    entry = save(tmp_path / "x", MIXED)
    content = (tmp_path / "x").read_bytes()
    assert entry == FileDigest(len(content), hashlib.sha256(content).hexdigest())


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        disk.write(tmp_path / "x", [b"new"])
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_files_and_folders_have_the_modes_of_the_umask(tmp_path, umask):
    from fitorch.checkpoint import CheckpointStore

    before = os.umask(umask)
    try:
        checkpoint = CheckpointStore(tmp_path / "a" / "b").save(
            1, {"m": {"w": torch.ones(1)}, "s": 1}
        )
        disk.replace(tmp_path / "best", b"x")
    finally:
        os.umask(before)
    for path in (checkpoint.path, tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    for path in (*checkpoint.path.iterdir(), tmp_path / "best"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_replacing_leaves_the_old_file_and_nothing_else_where_it_fails(tmp_path, monkeypatch):
    disk.replace(tmp_path / "x", b"old")

    def fail(_handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        disk.replace(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_replacing_puts_the_new_file_in_place(tmp_path):
    disk.replace(tmp_path / "x", b"old")
    disk.replace(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_cannot_be_synced_by_its_file_system_is_no_error(tmp_path, monkeypatch):
    def unsupported(_handle):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    disk.sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], "bytes"),
        (lambda content: content + b"x", "bytes"),
        (lambda content: b"X" + content[1:], "sha256"),
    ],
)
def test_a_changed_file_is_refused_by_name_with_expected_and_found(tmp_path, change, words):
    entry = disk.write(tmp_path / "x", [b"content"])
    (tmp_path / "x").write_bytes(change(b"content"))
    with pytest.raises(CheckpointCorruptedError, match=words) as caught:
        disk.read(tmp_path / "x", entry)
    assert str(tmp_path / "x") in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointCorruptedError, match="gone is missing"):
        disk.read(tmp_path / "gone")


def test_links_pipes_and_folders_are_no_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(UnsafeCheckpointError, match=name):
            disk.read(tmp_path / name)


def test_json_that_would_not_be_read_back_is_not_written(tmp_path):
    for value in ([[]] * 400_000, "x" * 2**26, [0.5] * 2_000_000):
        with pytest.raises(CheckpointError, match="in tensors or NumPy arrays"):
            formats.json_bytes(value)


def test_tensors_that_would_not_be_read_back_are_not_written():
    tensors = {str(i): torch.zeros(0) for i in range(100_000)}
    with pytest.raises(CheckpointError, match="100,000 tensors are too many"):
        b"".join(formats.tensor_parts(tensors, {}))


def test_many_tensors_of_ordinary_nets_are_no_trouble(tmp_path):
    tensors = {f"blocks.{i}.attention.weight": torch.tensor(float(i)) for i in range(20_000)}
    save(tmp_path / "x", tensors)
    assert len(formats.read_tensors((tmp_path / "x").read_bytes(), tmp_path / "x")) == 20_000


def test_making_a_folder_syncs_every_folder_that_got_a_new_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(disk, "sync_folder", synced.append)
    disk.make_folder(tmp_path / "a" / "b" / "c")
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


def test_a_file_is_replaced_only_once_the_block_has_written_all(tmp_path):
    def fail(temporary):
        temporary.write_text("half of the new")
        raise ZeroDivisionError

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), disk.replacing(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old"
    with disk.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    calls, rename, fsync = [], Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda a, b: calls.append("rename") or rename(a, b))
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync") or fsync(handle))
    disk.replace(tmp_path / "file", b"new")
    assert calls == ["fsync", "rename", "fsync"]
