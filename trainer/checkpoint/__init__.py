"""Checkpoints on disk: written completely or not at all, and verified when they are read.

A store is a folder of checkpoints, `step-0000000042` each, and independent of training::

    store = CheckpointStore("runs/ring/checkpoints", keep=2)
    store.save(42, {"model": net.state_dict(), "state": {"epoch": 3}})
    parts = store.newest_good().read()                  # {"model": {...}, "state": {...}}

In a checkpoint's folder each part consists of `<part>.safetensors` with its tensors and, if there
are other values, `<part>.json`. `manifest.json` lists the files with their sizes and digests, and
is written last. A folder gets its final name only once its content is on the disk. Nothing is
pickled.
"""

from .checkpoint import Checkpoint
from .parts import Part, pack
from .store import CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore", "Part", "pack"]
