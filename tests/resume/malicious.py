# ruff: noqa: E501, T201, PTH123
"""Checkpoints that mean harm; as a script, reads each in a process of its own and reports.

Usage: malicious.py FOLDER; prints a line of JSON for each.
"""

import hashlib
import io
import json
import os
import pickle
import signal
import sys
import tarfile
import time
import zipfile
from pathlib import Path

from fitorch.distributed.fsdp import can_shard

MARK = "touched"  # what a payload would leave in the working folder


class Payload:
    def __reduce__(self):
        return (open, (MARK, "w"))


def pickled(protocol):
    return pickle.dumps({"w": Payload()}, protocol)


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(2))
        archive.writestr("archive/version", "3")
    return file.getvalue()


def legacy_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(pickled(2))
            archive.addfile(info, io.BytesIO(pickled(2)))
    return file.getvalue()


def tensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def objects(count, text):
    return b"{" + b",".join(b'"%x":%s' % (i, text) for i in range(count)) + b"}"


GOOD = {"w": entry()}
MANY = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'

FILES = {  # content of model.safetensors
    "pickle 0": pickled(0), "pickle 2": pickled(2), "pickle 4": pickled(4), "pickle 5": pickled(5),
    "zip": zipped(), "tar": legacy_tar(), "empty": b"", "short": b"1234", "text": b"GIF89a" * 99,
    "header bomb": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "header of 2**64": b"\xff" * 8 + b"{}",
    "header of 99 MB": (99_000_000).to_bytes(8, "little") + b"{}",
    "header as a list": tensors([1, 2]), "header of null": tensors(b"null"), "deep": tensors(b"[" * 10**6),
    "deep objects": tensors(b'{"a":' * 10**6), "unknown dtype": tensors({"w": entry("PICKLE")}, b"1234"),
    "F4": tensors({"w": entry("F4", [8], [0, 4])}, b"1234"),
    "wrong shape": tensors({"w": entry(shape=[9])}, b"1234"),
    "negative shape": tensors({"w": entry(shape=[-1])}, b"1234"),
    "huge shape": tensors({"w": entry(shape=[2**62, 2**62])}, b"1234"),
    "float shape": tensors({"w": entry(shape=[1.5])}, b"1234"),
    "outside": tensors({"w": entry(offsets=[0, 2**40])}, b"1234"),
    "backwards": tensors({"w": entry(offsets=[4, 0])}, b"1234"),
    "overlap": tensors({"w": entry(), "v": entry()}, b"1234"),
    "gap": tensors({"w": entry(), "v": entry(offsets=[8, 12])}, b"1" * 12),
    "trailing": tensors(GOOD, b"1234" * 9), "duplicate": tensors(b'{"w":%s,"w":%s}' % (
        json.dumps(entry()).encode(), json.dumps(entry(offsets=[4, 8])).encode()), b"12345678"),
    "metadata": tensors({"__metadata__": {"x": {"y": 1}}, **GOOD}, b"1234"),
    "a million tensors": tensors(objects(10**6, MANY)),
    "a million notes": tensors(b'{"__metadata__":%s}' % objects(10**6, b'"a"') + b" " * 99),
    "many dimensions": tensors(b'{"w":{"dtype":"F32","shape":[0%s],"data_offsets":[0,0]}}' % (b",0" * 5 * 10**6)),
}  # fmt: skip
JSONS = {  # content of state.json
    "pickle 0": pickled(0), "pickle 2": pickled(2), "pickle 5": pickled(5), "zip": zipped(), "tar": legacy_tar(),
    "empty": b"", "deep lists": b"[" * 10**6, "deep objects": b'{"a":' * 10**6,
    "a million lists": b"[" + b"[]," * 10**6 + b"0]", "objects": b"[" + b'{"a":0},' * 10**6 + b"0]",
    "keys": objects(2 * 10**6, b"0"), "huge int": b"9" * 10**6, "huge float": b"[1e" + b"9" * 10**6 + b"]x",
    "strings": b"[" + b'"ab",' * 3 * 10**6 + b"0]", "emoji": json.dumps("a" * 2**24 + "😀", ensure_ascii=False).encode(),
    "one long string": b'"' + b"a" * 2**25 + b'"', "tag": b'{"$": "os.system", "value": "touch touched"}',
    "array": b'{"$": "array", "value": ["w", [4000000000]]}', "long int": b'{"$": "int", "value": "zz"}',
    "no such tensor": b'{"$": "tensor", "value": "../../x"}', "unhashable": b'{"$": "dict", "value": [[[], 0]]}',
    "base64": b'{"$": "bytes", "value": "%%%"}', "UTF-16": '{"a": 1}'.encode("utf-16"), "NUL": b"\0" * 99,
    "complex": b'{"$": "complex", "value": "w"}', "counter": b'{"$": "counter", "value": [[[1], 1]]}',
}  # fmt: skip


def write(folder, contents, table=None, **changes):
    """Write files, and a manifest that vouches for them."""
    folder.mkdir(parents=True)
    entries = {}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        entries[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    body = {"format": 1, "step": 1, "version": "0.1", "created": 1.0, "files": entries, "info": {}}
    seal(folder, {**body, **changes} if table is None else table)
    return folder


def seal(folder, table):
    text = table if isinstance(table, str) else json.dumps(table)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"body": text, "sha256": digest}))


def named(folder, name, size=1, digest=None):
    digest = hashlib.sha256(b"x").hexdigest() if digest is None else digest
    return write(folder, {}, files={name: {"bytes": size, "sha256": digest}})


def linked_file(folder):
    write(folder, {"state.json": b"{}"})
    (folder / "state.json").rename(folder.parent / "outside.json")
    (folder / "state.json").symlink_to(folder.parent / "outside.json")


def linked_folder(folder):
    write(folder.parent / "real", {"state.json": b"{}"})
    folder.symlink_to(folder.parent / "real")


def linked_manifest(folder):
    write(folder, {"state.json": b"{}"})
    (folder / "manifest.json").rename(folder.parent / "outside.json")
    (folder / "manifest.json").symlink_to(folder.parent / "outside.json")


def pipe(folder, name="state.json"):
    write(folder, {"state.json": b""})
    (folder / name).unlink()
    os.mkfifo(folder / name)


def device(folder):
    write(folder, {"state.json": b"{}"})
    (folder / "state.json").unlink()
    (folder / "state.json").symlink_to("/dev/zero")


def plain(content):
    def make(folder):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(content)

    return make


def huge_manifest(folder):
    plain(b"")(folder)
    os.truncate(folder / "manifest.json", 2**40)


def shards(files, name="w", unnamed=()):
    """Make a checkpoint whose one tensor is in parts: content by the name of its file."""

    def make(folder):
        folder.mkdir(parents=True)
        (folder / "shards").mkdir()
        contents = {"model.json": json.dumps({"w": {"$": "shard", "value": name}}).encode()}
        contents |= {f"shards/{file}": content for file, content in files.items()}
        entries = {}
        for file, content in contents.items():
            (folder / file).write_bytes(content)
            if file not in unnamed:
                digest = hashlib.sha256(content).hexdigest()
                entries[file] = {"bytes": len(content), "sha256": digest}
        body = {"format": 1, "step": 1, "version": "0.1", "created": 1.0, "info": {}}
        seal(folder, {**body, "files": entries})

    return make


def shard(offset=(0,), *, dtype="F32", data=b"1234", **changes):
    """Return a part of the tensor w, one number; or what claims to be one."""
    told = {"w": {"saved_offsets": list(offset)}}
    notes = {"format": "pt", "DCP_SHARDING_INFO": json.dumps(told), **changes}
    return tensors({"__metadata__": notes, "w": entry(dtype)}, data)


def linked_shards(folder):
    shards({"a.safetensors": shard()})(folder)
    (folder / "shards").rename(folder.parent / "outside")
    (folder / "shards").symlink_to(folder.parent / "outside")


def linked_shard(folder):
    shards({"a.safetensors": shard()})(folder)
    (folder / "shards" / "a.safetensors").rename(folder.parent / "outside")
    (folder / "shards" / "a.safetensors").symlink_to(folder.parent / "outside")


SHARDS = {
    "linked folder": linked_shards,
    "linked file": linked_shard,
    "one that the table does not name": shards(
        {"a.safetensors": shard(), "b.safetensors": shard([1])}, unnamed=["shards/b.safetensors"]
    ),
    "a pickle beside": shards(
        {"a.safetensors": shard(), ".metadata": pickled(2)}, unnamed=["shards/.metadata"]
    ),
    "pickle": shards({"a.safetensors": pickled(2)}),
    "empty": shards({"a.safetensors": b""}),
    "no file": shards({}),
    "another tensor": shards({"a.safetensors": shard()}, name="v"),
    "offset of 2**60": shards({"a.safetensors": shard([2**60])}),
    "negative offset": shards({"a.safetensors": shard([-1])}),
    "two offsets": shards({"a.safetensors": shard([0, 0])}),
    "text offset": shards({"a.safetensors": shard(["1"])}),
    "the same twice": shards({"a.safetensors": shard(), "b.safetensors": shard()}),
    "unknown dtype": shards({"a.safetensors": shard(dtype="F4")}),
    "pickled notes": shards({"a.safetensors": shard(DCP_SHARDING_INFO="\x80\x04.")}),
    "notes of another tensor": shards({"a.safetensors": shard(DCP_SHARDING_INFO="{}")}),
    "list as notes": shards({"a.safetensors": shard(DCP_SHARDING_INFO="[1]")}),
}


def pickled_file(folder):
    folder.parent.mkdir(parents=True)
    folder.write_bytes(pickled(4))


FOLDERS = {
    "linked file": linked_file, "linked folder": linked_folder, "linked manifest": linked_manifest,
    "pipe": pipe, "piped manifest": lambda folder: pipe(folder, "manifest.json"), "device": device,
    "folder as a file": lambda folder: (write(folder, {"state.json": b""}) / "state.json").unlink()
    or (folder / "state.json").mkdir(),
    "pickled manifest": plain(pickled(4)), "zipped manifest": plain(zipped()), "deep manifest": plain(b"[" * 10**6),
    "list as a manifest": plain(b"[" + b"[]," * 2 * 10**6 + b"0]"), "huge manifest": huge_manifest,
    "long int in the manifest": plain(b'{"body": ' + b"9" * 10**6 + b"}"),
    "pickled file for a folder": pickled_file,
    "up": lambda folder: named(folder, "../outside.json"), "absolute": lambda folder: named(folder, "/etc/passwd"),
    "other suffix": lambda folder: named(folder, "evil.pkl"), "NUL": lambda folder: named(folder, "a\0.json"),
    "surrogate": lambda folder: named(folder, "\ud800.json"), "long name": lambda folder: named(folder, "x" * 10**5 + ".json"),
    "huge bytes": lambda folder: write(folder, {"state.json": b"{}"}, files={"state.json": {"bytes": 10**15, "sha256": "x"}}),
    "negative bytes": lambda folder: named(folder, "state.json", -1), "text bytes": lambda folder: named(folder, "state.json", "1"),
    "list as digest": lambda folder: named(folder, "state.json", 1, []), "format": lambda folder: write(folder, {}, format=10**30),
    "text step": lambda folder: write(folder, {}, step="1"), "huge created": lambda folder: write(folder, {}, created=10**400),
    "list as info": lambda folder: write(folder, {}, info=[]), "list as files": lambda folder: write(folder, {}, files=[1]),
    "deep body": lambda folder: write(folder, {}, table="[" * 10**6), "long body": lambda folder: write(folder, {}, table="9" * 10**6),
}  # fmt: skip


def cases():
    """Return what makes each case's folder, by its name."""
    made = {f"folder: {name}": make for name, make in FOLDERS.items()}
    made |= {f"shards: {name}": make for name, make in SHARDS.items() if can_shard()}
    for name, content in FILES.items():
        made[f"tensors: {name}"] = lambda folder, content=content: write(
            folder, {"model.safetensors": content}
        )
    for name, content in JSONS.items():
        made[f"json: {name}"] = lambda folder, content=content: write(
            folder, {"state.safetensors": tensors({"w": entry()}, b"1234"), "state.json": content}
        )
    return made


def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def read_and_report(path, size):
    from fitorch.checkpoint import Checkpoint
    from fitorch.errors import CheckpointError

    seen = []

    def hook(event, args):
        if event == "open":
            writes = bool(set(args[1] or "") & set("wxa+")) or bool(
                args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            seen.extend([f"{event} {args[0]}"] if writes else [])
        elif event.startswith(
            (
                "pickle",
                "exec",
                "compile",
                "import",
                "os.",
                "shutil",
                "subprocess",
                "socket",
                "ctypes",
            )
        ) and event not in ("os.listdir", "os.scandir"):
            seen.append(f"{event} {str(args)[:80]}")

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest memory counts from here
    before = memory("VmRSS")
    sys.addaudithook(hook)
    begin = time.perf_counter()
    signal.alarm(20)
    try:
        Checkpoint(path).read()
        told = "read"
    except CheckpointError as error:
        told = f"CheckpointError: {type(error).__name__}: {str(error)[:300]}"
    except BaseException as error:
        told = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.perf_counter() - begin
    events = list(seen)
    return {"told": told, "seconds": seconds, "memory": memory("VmHWM") - before, "events": events}


def main():
    root = Path(sys.argv[1])
    from fitorch.checkpoint import Checkpoint

    write(
        root / "good",
        {
            "m.safetensors": tensors(GOOD, b"1234"),
            "s.json": b'{"a": [1, {"$": "float", "value": "inf"}]}',
        },
    )
    assert Checkpoint(root / "good").read()["s"] == {"a": [1, float("inf")]}  # and all is imported
    halves = {"a.safetensors": shard(data=bytes(4)), "b.safetensors": shard([1], data=bytes(4))}
    if can_shard():
        shards(halves)(root / "split")
        assert Checkpoint(root / "split").read()["model"]["w"].tolist() == [0, 0]
    for i, (name, make) in enumerate(cases().items()):
        folder = root / str(i) / "step-0000000001"
        folder.parent.mkdir()
        if name == "folder: pickled file for a folder":
            folder.parent.rmdir()
        make(folder)
        size = 0
        if not folder.is_symlink() and folder.is_dir():
            size = sum(path.lstat().st_size for path in folder.rglob("*"))
        before = sorted(str(path) for path in folder.parent.rglob("*"))
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            print(
                json.dumps({"name": name, "size": size, **read_and_report(folder, size)}),
                flush=True,
            )
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(
                json.dumps(
                    {
                        "name": name,
                        "size": size,
                        "told": f"status {status}",
                        "seconds": 99,
                        "memory": 0,
                        "events": [],
                    }
                )
            )
        assert sorted(str(path) for path in folder.parent.rglob("*")) == before, name
        for path in folder.parent.rglob("*") if size > 10**6 else ():
            path.unlink() if path.is_file() else None


if __name__ == "__main__":
    main()
