import hashlib
import json
import time

import pytest

from fitorch.checkpoint.manifest import Manifest
from fitorch.errors import (
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    UnsafeCheckpointError,
)
from fitorch.files import FileDigest

DIGEST = "0" * 64


def body(**changes):
    return {
        "format": 1,
        "step": 3,
        "version": "0.1",
        "created": 1.5,
        "info": {},
        "files": {"m.json": {"bytes": 1, "sha256": DIGEST}},
        **changes,
    }


def put(folder, table):
    text = table if isinstance(table, str) else json.dumps(table)
    sealed = {"body": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(sealed))
    return folder


def test_what_is_sealed_is_opened_the_same(tmp_path):
    info = {"epoch": 3, "loss": 0.1, "names": ["ä", "b"], "none": None}
    manifest = Manifest(7, "0.1", time.time(), {"m.safetensors": FileDigest(5, DIGEST)}, info)
    (tmp_path / "manifest.json").write_bytes(manifest.seal())
    assert Manifest.open(tmp_path) == manifest
    assert manifest.size == 5


def test_the_file_is_json_whose_digest_sha256_confirms():
    sealed = json.loads(Manifest(7, "0.1", 1.0, {}).seal())
    assert hashlib.sha256(sealed["body"].encode()).hexdigest() == sealed["sha256"]
    assert json.loads(sealed["body"])["step"] == 7


def test_the_tables_own_form_is_accepted(tmp_path):
    assert Manifest.open(put(tmp_path, body())).files == {"m.json": FileDigest(1, DIGEST)}


@pytest.mark.parametrize("info", [{"x": object()}, {"x": {1, 2}}, {(1, 2): 3}, {"x": "y" * 2**24}])
def test_info_that_cannot_be_read_back_is_refused(info):
    with pytest.raises(CheckpointError, match="info of a checkpoint"):
        Manifest(1, "0.1", 1.0, {}, info).seal()


@pytest.mark.parametrize("version", [2, 99, "2", None, 1.5, [1]])
def test_another_format_is_refused_with_both_versions(tmp_path, version):
    with pytest.raises(CheckpointVersionError, match=r"fitorch 9\.9.*up to 1.*upgrade") as caught:
        Manifest.open(put(tmp_path, body(format=version, version="9.9")))
    assert repr(version) in str(caught.value)


def test_a_newer_format_is_told_first_even_if_nothing_else_is_known_of_it(tmp_path):
    with pytest.raises(CheckpointVersionError, match="format 2"):
        Manifest.open(put(tmp_path, {"format": 2, "tables": []}))


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "/etc/passwd",
        "/tmp/x.json",
        "a/b.json",
        "..",
        ".",
        "",
        "a\\b.json",
        "C:x.json",
        "manifest.json",
        ".hidden.json",
        "x.pkl",
        "x.json\0",
        "\0",
        "x\n.json",
        "ä.json",
        "\ud800.json",
        "x" * 300 + ".json",
        "x.json ",
        "~.json",
        "model.pt",
    ],
)
def test_a_name_that_is_no_plain_file_of_the_folder_is_unsafe(tmp_path, name):
    with pytest.raises(UnsafeCheckpointError, match="names"):
        Manifest.open(put(tmp_path, body(files={name: {"bytes": 1, "sha256": DIGEST}})))


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": None},
        {"step": 1.5},
        {"created": "now"},
        {"created": 10**400},
        {"created": None},
        {"info": []},
        {"info": None},
        {"version": 1},
        {"version": None},
        {"files": []},
        {"files": None},
        {"files": {"m.json": None}},
        {"files": {"m.json": []}},
        {"files": {"m.json": {}}},
        {"files": {"m.json": {"bytes": 1}}},
        {"files": {"m.json": {"bytes": "1", "sha256": DIGEST}}},
        {"files": {"m.json": {"bytes": True, "sha256": DIGEST}}},
        {"files": {"m.json": {"bytes": 1, "sha256": 5}}},
        {"files": {"m.json": {"bytes": 1, "sha256": DIGEST, "more": 1}}},
    ],
    ids=str,
)
def test_wrong_types_are_called_corrupt(tmp_path, change):
    with pytest.raises(CheckpointCorruptedError, match="not the manifest of a checkpoint"):
        Manifest.open(put(tmp_path, body(**change)))


@pytest.mark.parametrize("field", list(body()))
def test_a_missing_field_is_called_corrupt(tmp_path, field):
    table = body()
    del table[field]
    with pytest.raises(CheckpointCorruptedError):
        Manifest.open(put(tmp_path, table))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{}",
        b'{"body": 1, "sha256": 2}',
        b"\xff\xfe",
        b'{"body": "{}", "sha256": "x"}',
        b'{"body": "\\ud800", "sha256": "x"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        "é".encode(),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_sealed_table_is_called_corrupt(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointCorruptedError, match=r"manifest\.json"):
        Manifest.open(tmp_path)


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"x"', "{", "[" * 100_000])
def test_a_sealed_body_that_is_no_table_is_called_corrupt(tmp_path, text):
    with pytest.raises(CheckpointCorruptedError):
        Manifest.open(put(tmp_path, text))


def test_no_manifest_tells_that_saving_never_finished(tmp_path):
    with pytest.raises(CheckpointCorruptedError, match="saving did not finish"):
        Manifest.open(tmp_path)


def test_a_json_error_tells_its_position(tmp_path):
    (tmp_path / "manifest.json").write_text('{"body": }')
    with pytest.raises(CheckpointCorruptedError, match="char 9"):
        Manifest.open(tmp_path)


def test_no_folder_is_not_found_and_what_is_beside_it_is_named(tmp_path):
    (tmp_path / "step-0000000007").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="step-0000000007") as caught:
        Manifest.open(tmp_path / "step-0000000008")
    assert str(tmp_path / "step-0000000008") in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("content", [b"\x80\x04.", b"PK\x03\x04abc"])
def test_a_pickled_file_given_as_a_checkpoint_is_unsafe_and_the_way_out_named(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UnsafeCheckpointError, match=r"model\.pt is pickled.*load_ckpt"):
        Manifest.open(tmp_path / "model.pt")


def test_linked_folders_and_manifests_are_unsafe(tmp_path):
    (tmp_path / "real").mkdir()
    put(tmp_path / "real", body())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").symlink_to(tmp_path / "real" / "manifest.json")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "manifest.json").symlink_to(tmp_path / "nowhere")
    for name in ("link", "other", "gone"):
        with pytest.raises(UnsafeCheckpointError, match="link"):
            Manifest.open(tmp_path / name)


def test_a_manifest_beyond_any_that_is_written_is_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointCorruptedError, match="more than any"):
        Manifest.open(tmp_path)
