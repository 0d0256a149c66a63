"""Find the checkpoint that a fit should go on with, and read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fitorch.distributed.fsdp import mesh_of
from fitorch.distributed.processes import Processes
from fitorch.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    RankError,
    UnsafeCheckpointError,
)

from .checkpoint import Checkpoint
from .listing import checkpoints_at
from .manifest import Manifest
from .run_folder import RunFolder
from .shards import FOLDER, filled
from .store import CheckpointStore

_FOREIGN = {
    "trainer_state.json": "a checkpoint of Hugging Face's Trainer",
    "pytorch_model.bin": "a model of Hugging Face's or accelerate's",
    "config.json": "a model of Hugging Face's",
    "optimizer.bin": "a checkpoint of accelerate's save_state",
}

# What a fit writes: facts that are known before the parts are read, and the parts.
_INFO = {"run": str, "epoch": int, "batch": int, "seed": int, "epochs": int}

_INFO |= {"run_settings": dict, "machine": dict}

_PARTS = ("model", "optimizer", "state", "rank-00000")


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that was read, whole.

    Args:
        checkpoint: Where it is.
        manifest: What it consists of.
        parts: Its parts, by name.
    """

    checkpoint: Checkpoint
    manifest: Manifest
    parts: dict[str, Any]

    def filled(self, state: Any, net: nn.Module | None = None) -> Any:
        """Return a state out of its parts, with the tensors that are split in their places.

        Args:
            state: The state.
            net: Where this is sharded, they are split as it is; whole otherwise.
        """
        mesh = None if net is None else mesh_of(net)
        return filled(state, self.checkpoint.path / FOLDER, mesh)

    @property
    def info(self) -> dict[str, Any]:
        """What it tells about itself."""
        return self.manifest.info


def find(resume: bool | str | Path, folder: RunFolder | None) -> Found | None:
    """Return the checkpoint to go on with, None where a fit should begin afresh.

    Args:
        resume: False, True for the newest good one in `folder`, or the path of a checkpoint or of
            a run, whose newest one must be whole.
        folder: The run's folder.

    Raises:
        CheckpointNotFoundError: There is nothing at the path.
        CheckpointCorruptedError: What is there can't be used.
        CheckpointError: There is something else at the path.
    """
    if resume is False:
        return None
    if resume is True:
        assert folder is not None
        return newest(folder.store) if folder.store.list() else None
    return read(checkpoint_at(resume))


def find_together(
    resume: bool | str | Path, folder: RunFolder | None, processes: Processes
) -> Found | None:
    """Return the checkpoint that the main process finds, read by each.

    Raises:
        CheckpointError: See `find`.
        RankError: A process does not find it, as its machine does not share the folder.
    """
    found, fault = None, None
    if processes.main:
        try:
            found = find(resume, folder)
        except CheckpointError as error:
            fault = error
    path, told = processes.from_main((None if found is None else found.checkpoint.path, fault))
    if told is not None:
        raise fault or told  # by all, who can then go on
    if path is None:
        return None
    there = processes.gather(path.is_dir())
    if not all(there):
        lacking = ", ".join(str(rank) for rank, each in enumerate(there) if not each)
        message = (
            f"the main process goes on from {path.absolute()}, but process {lacking} has no such "
            "folder; all machines must share it: copy it, or use a shared file system"
        )
        raise RankError(message)
    return found or read(Checkpoint(path), verified=True)


def newest(store: CheckpointStore) -> Found:
    """Return the newest checkpoint that is whole, read."""
    return read(store.newest_good())


def read(checkpoint: Checkpoint, *, verified: bool = False) -> Found:
    """Return a checkpoint of a fit, read and verified; split tensors are left where they are.

    Args:
        checkpoint: The checkpoint.
        verified: Whether the files of those tensors were compared already, by another process.

    Raises:
        CheckpointError: It is broken, or was written by something else than a fit.
    """
    found = Found(checkpoint, checkpoint.manifest(), checkpoint.parts(verified=verified))
    lacking = [name for name, kind in _INFO.items() if not isinstance(found.info.get(name), kind)]
    lacking += [name for name in _PARTS if not isinstance(found.parts.get(name), dict)]
    if lacking:
        message = (
            f"{checkpoint.path} was not written by a fit: it lacks {', '.join(lacking)}; "
            "fitorch.checkpoint.Checkpoint(path).read() gives what it holds"
        )
        raise CheckpointError(message)
    return found


def checkpoint_at(path: str | Path) -> Checkpoint:
    """Return the checkpoint that a path stands for: itself, or the newest of a run.

    Raises:
        CheckpointNotFoundError: There is nothing.
        CheckpointError: There is something else.
    """
    path = Path(path)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        message = (
            f"there is nothing at {path} ({path.absolute()}); {path.parent} holds "
            f"{', '.join(beside[:5]) or 'nothing'}"
        )
        raise CheckpointNotFoundError(message)
    if path.is_file():
        message = (
            f"{path} is a file; a checkpoint is a folder. Weights in a file, which may be pickled, "
            "are read by KerasModel.load_ckpt(path)"
        )
        raise UnsafeCheckpointError(message)
    if path.name.startswith("step-"):
        return Checkpoint(path)
    if found := checkpoints_at(path):
        return found[0]
    raise _not_ours(path)


def _not_ours(path: Path) -> CheckpointError:
    names = {child.name for child in path.iterdir()}
    looks = next((what for name, what in _FOREIGN.items() if name in names), "")
    looks = looks or ("a checkpoint of Lightning" if any(path.glob("*.ckpt")) else "")
    if not looks:
        message = f"there is no checkpoint in {path} ({path.absolute()})"
        return CheckpointNotFoundError(message)
    message = (
        f"{path} looks like {looks}, which fitorch can't go on with; its weights are read by "
        "KerasModel.load_ckpt(file)"
    )
    return CheckpointError(message)
