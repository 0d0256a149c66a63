import gc
import os
import threading

import psutil
import pytest
import torch

from fitorch.checkpoint import CheckpointStore


@pytest.mark.parametrize("saves", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_many_saves_leave_no_folders_files_threads_or_memory_behind(tmp_path, saves, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    state = {"model": {"w": torch.ones(1_000)}, "state": {"history": [0.5] * 1_000, "a": {1: 2}}}
    most = 0
    fsync = os.fsync

    def look(handle):
        nonlocal most
        most = max(most, len(os.listdir(tmp_path)))  # noqa: PTH208
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    process = psutil.Process()
    for step in range(20):
        store.save(step, state)
        store.newest_good().read()
    gc.collect()
    before = process.num_fds(), threading.active_count(), process.memory_info().rss
    for step in range(20, 20 + saves):
        store.save(step, state)
        most = max(most, len(os.listdir(tmp_path)))  # noqa: PTH208
        if step % 10 == 0:
            store.newest_good().read()
    gc.collect()
    assert process.num_fds() == before[0]
    assert threading.active_count() == before[1]
    assert process.memory_info().rss < 1.05 * before[2]
    assert most <= 3
    assert len(store.list()) == 2
