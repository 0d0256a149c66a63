"""Changed bytes, with digests made anew so that what lies behind them is reached."""

import json
import os
import random
import shutil

import pytest
import torch

from fitorch.checkpoint import Checkpoint, CheckpointStore
from fitorch.errors import CheckpointError
from resume.malicious import seal, write

COUNT = 100_000 if os.environ.get("FITORCH_SOAK") == "1" else 1_000
ODD = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    float("nan"),
    "",
    "x",
    "../x",
    "$",
    "\ud800",
    "tensor",
    "dict",
    [],
    {},
    [[]],
    {"$": "tensor"},
    {"$": "dict", "value": [[[], 1]]},
    [0] * 50,
]


@pytest.fixture
def saved(tmp_path):
    state = {
        "a": [torch.ones(3), (1, float("inf"), b"x")],
        3: {1, 2},
        "c": torch.ones(2, dtype=torch.complex64),
        "n": torch.arange(4).numpy(),
        "f": 0.5,
        "d": {(1, 2): None},
    }
    checkpoint = CheckpointStore(tmp_path / "saved").save(3, {"state": state}, {"epoch": 1})
    contents = {path.name: path.read_bytes() for path in checkpoint.path.iterdir()}
    manifest = json.loads(json.loads(contents.pop("manifest.json"))["body"])
    return tmp_path / "fuzzed", contents, manifest


def mutate_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(5):
            case 0:
                content[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                content[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del content[at : at + rng.randrange(1, 9)]
            case 3:
                content[at:at] = content[rng.randrange(len(content) + 1) :][:20]
            case 4:
                content[at : at + 1] = rng.choice(b'0123456789-{}[]",:.eE\\$ ').to_bytes(
                    1, "little"
                )
    return bytes(content)


def mutate_value(value, rng):
    """Return the value with something in it replaced, removed or renamed."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        value = value.copy()
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                del value[key]
            case 1 if isinstance(value, dict):
                value[str(rng.choice(ODD))] = value.pop(key)
            case _:
                value[key] = mutate_value(value[key], rng)
        return value
    return rng.choice(ODD)


def mutate_header(content, rng):
    size = int.from_bytes(content[:8], "little")
    header = mutate_value(json.loads(content[8 : 8 + size]), rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def mutate_json(content, rng):
    return json.dumps(mutate_value(json.loads(content), rng)).encode()


def read_or_refuse(folder):
    """Return whether it is refused; any other error than ours escapes."""
    try:
        Checkpoint(folder).read()
    except CheckpointError:
        return True
    return False


@pytest.mark.parametrize(
    ("name", "mutate"),
    [
        ("state.safetensors", mutate_header),
        ("state.safetensors", mutate_bytes),
        ("state.json", mutate_json),
        ("state.json", mutate_bytes),
    ],
)
def test_changed_files_with_right_digests_are_read_or_refused(saved, name, mutate):
    folder, contents, _ = saved
    rng = random.Random(f"{name} {mutate.__name__}")
    refused = 0
    for _ in range(COUNT // 5):
        changed = mutate(contents[name], rng)
        refused += read_or_refuse(write(folder, {**contents, name: changed}))
        shutil.rmtree(folder)
    assert refused > COUNT // 20


def test_changed_manifests_are_read_or_refused(saved):
    folder, contents, manifest = saved
    rng = random.Random(0)
    write(folder, contents)
    refused = 0
    for i in range(COUNT // 5):
        if i % 3 == 0:
            seal(folder, mutate_bytes(json.dumps(manifest).encode(), rng).decode("latin-1"))
        elif i % 3 == 1:
            seal(folder, mutate_value(manifest, rng))
        else:
            path = folder / "manifest.json"
            seal(folder, manifest)
            path.write_bytes(rng.choice((mutate_bytes, mutate_json))(path.read_bytes(), rng))
        refused += read_or_refuse(folder)
    assert refused > COUNT // 20


@pytest.mark.slow
def test_a_hundred_thousand_changes_are_read_or_refused(saved, monkeypatch):
    monkeypatch.setitem(globals(), "COUNT", 100_000)
    for name, mutate in (
        ("state.safetensors", mutate_header),
        ("state.safetensors", mutate_bytes),
        ("state.json", mutate_json),
        ("state.json", mutate_bytes),
    ):
        test_changed_files_with_right_digests_are_read_or_refused(saved, name, mutate)
    test_changed_manifests_are_read_or_refused(saved)
