# ruff: noqa: T201
"""Kills processes that save checkpoints, and looks at what is left; prints a line of JSON.

Usage: killed_saves.py FOLDER KILLS MEGABYTES SEED MODE, where MODE is "save" or "prune".
"""

import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import torch

from fitorch.checkpoint import CheckpointStore


def state(step, numbers):
    tensor = torch.full((numbers,), float(step))
    return {
        "model": {"w": tensor},
        "optimizer": {"state": {0: {"avg": tensor.double()[: numbers // 4], "step": step}}},
        "state": {"step": step},
    }


def save_for_ever(folder, numbers, pipe, mode):
    store = CheckpointStore(folder, keep=1 if mode == "prune" else 2)
    store.sweep()
    if mode == "prune":
        slow_down_removal(pipe)
    step = store.list()[0].step if store.list() else 0
    while True:
        step += 1
        saved = store.save(step, state(step, numbers), protected=[folder / "step-0000000001"])
        os.write(pipe, b"a" + struct.pack("q", saved.step))


def slow_down_removal(pipe):
    """Let old checkpoints go file by file, and tell when it begins."""

    def rmtree(path, ignore_errors=False):
        os.write(pipe, b"p" + bytes(8))
        for file in sorted(Path(path).iterdir()):
            time.sleep(0.002)
            file.unlink()
        time.sleep(0.002)
        Path(path).rmdir()

    rename = Path.rename

    def slow_rename(self, target):
        if Path(target).name.startswith(".trash"):
            os.write(pipe, b"p" + bytes(8))
            time.sleep(0.002)
        return rename(self, target)

    shutil.rmtree = rmtree
    Path.rename = slow_rename


def killed_once(folder, numbers, rng, mode, longest):
    """Return the last step that the child acknowledged before it was killed."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(here)
            save_for_ever(folder, numbers, there, mode)
        finally:
            os._exit(1)
    os.close(there)
    wanted = b"p" if mode == "prune" else b"a"
    received = b""
    while wanted not in received[::9]:
        if not select.select([here], [], [], 60)[0]:
            sys.exit("the child says nothing")
        received += os.read(here, 9)
    end = time.monotonic() + rng.uniform(0, longest)
    while time.monotonic() < end:
        if select.select([here], [], [], max(0, end - time.monotonic()))[0]:
            received += os.read(here, 9)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(here, 9000):
        received += more
    os.close(here)
    acknowledged = [received[i : i + 9] for i in range(0, len(received), 9)]
    return max([struct.unpack("q", a[1:])[0] for a in acknowledged if a[:1] == b"a"], default=0)


def main():  # noqa: PLR0915
    folder, kills, megabytes, seed, mode = Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5]
    rng = random.Random(seed)
    numbers = megabytes * 2**20 // 6  # 4 bytes in the net, 2 in the optimizer
    result = {"kills": 0, "unreadable": 0, "torn": 0, "lost": 0, "too many": 0, "interrupted": 0}
    store = CheckpointStore(folder)
    begin = time.perf_counter()
    for step in (1, 2):
        store.save(step, state(step, numbers))
    longest = 0.02 if mode == "prune" else 1.5 * (time.perf_counter() - begin)
    foreign = folder / "step-0000000000"
    foreign.mkdir()
    for _ in range(kills):
        known = store.list()[0].step
        acknowledged = max(known, killed_once(folder, numbers, rng, mode, longest))
        result["kills"] += 1
        left = [path.name for path in folder.iterdir()]
        result["interrupted"] += any(name.startswith(".t") for name in left)
        most = 5 if mode == "save" else 999  # who dies in each removal leaves more every time
        result["too many"] += sum(name.startswith((".t", "step-")) for name in left) > most
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                good = store.newest_good()
                read = good.read()
                store.list()[-2].verify()  # the one that is protected
        except Exception as error:
            print(error, file=sys.stderr)
            result["unreadable"] += 1
            continue
        told = {
            *read["model"]["w"].unique().tolist(), read["state"]["step"], good.step,
            *read["optimizer"]["state"][0]["avg"].unique().tolist(),
            read["optimizer"]["state"][0]["step"], good.manifest().step,
        }  # fmt: skip
        result["torn"] += told != {good.step}
        result["lost"] += good.step < acknowledged or store.list()[-2].step != 1
        result["lost"] += not foreign.is_dir()
    store.sweep()
    store.save(store.list()[0].step + 1, state(0, 8), protected=[folder / "step-0000000001"])
    result["too many"] += len(store.list()) > 4  # two, the protected and the foreign one
    result["left"] = sum(path.name.startswith(".t") for path in folder.iterdir())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
