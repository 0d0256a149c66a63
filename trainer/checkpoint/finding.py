"""Find the checkpoint that a fit resumes, and read it."""

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
from .shards import FOLDER, load_tensors

_FOREIGN = {
    "trainer_state.json": "a checkpoint of Hugging Face's Trainer",
    "pytorch_model.bin": "a model of Hugging Face's or accelerate's",
    "config.json": "a model of Hugging Face's",
    "optimizer.bin": "a checkpoint of accelerate's save_state",
}

# The facts in the manifest of a fit's checkpoint, and its parts.
_INFO = {
    "run": str,
    "epoch": int,
    "batch": int,
    "seed": int,
    "epochs": int,
    "run_settings": dict,
    "machine": dict,
}

_PARTS = ("model", "optimizer", "state", "rank-00000")


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint of a fit, verified and read.

    Args:
        checkpoint: Its folder.
        manifest: Its manifest.
        parts: Its parts by name, with a `Shard` in place of each sharded tensor.
    """

    checkpoint: Checkpoint
    manifest: Manifest
    parts: dict[str, Any]

    def with_tensors(self, state: object, net: nn.Module | None = None) -> Any:
        """Return a state from the parts with tensors in place of its `Shard`s.

        Args:
            state: The state.
            net: If it is sharded, the tensors are sharded likewise; otherwise they are full.
        """
        mesh = None if net is None else mesh_of(net)
        return load_tensors(state, self.checkpoint.path / FOLDER, mesh)

    @property
    def info(self) -> dict[str, Any]:
        """The facts in the manifest."""
        return self.manifest.info


def find(resume: bool | str | Path, folder: RunFolder | None) -> LoadedCheckpoint | None:
    """Return the checkpoint to resume, None if the fit starts from the beginning.

    Args:
        resume: False, True for the newest intact checkpoint in `folder`, or the path of a
            checkpoint or a run, whose newest checkpoint must be intact.
        folder: The folder of the run.

    Raises:
        CheckpointNotFoundError: The path does not exist, or has no checkpoint.
        CheckpointCorruptedError: The checkpoint is damaged.
        CheckpointError: The path is not a checkpoint of fitorch.
    """
    if resume is False:
        return None
    if resume is True:
        assert folder is not None
        return load_checkpoint(folder.store.newest_good()) if folder.store.list() else None
    return load_checkpoint(checkpoint_at(resume))


def find_on_all_ranks(
    resume: bool | str | Path, folder: RunFolder | None, processes: Processes
) -> LoadedCheckpoint | None:
    """Return the checkpoint that the main process finds, read by each rank.

    Raises:
        CheckpointError: See `find`.
        RankError: A rank does not see the folder, because its machine does not share it.
    """
    loaded, failure = None, None
    if processes.is_main:
        try:
            loaded = find(resume, folder)
        except CheckpointError as error:
            failure = error
    choice = (None if loaded is None else loaded.checkpoint.path, failure)
    # The other ranks wait for the main one, which may verify many gigabytes.
    path, main_failure = processes.broadcast(choice)
    if main_failure is not None:
        raise failure or main_failure  # on all ranks: none waits for the others afterwards
    if path is None:
        return None
    # All ranks wait for each other, and all raise or none.
    seen = processes.gather(path.is_dir())
    if not all(seen):
        lacking = ", ".join(str(rank) for rank, is_seen in enumerate(seen) if not is_seen)
        message = (
            f"the main process resumes {path.absolute()}, but process {lacking} does not see that "
            "folder; copy it to all machines, or use a shared file system"
        )
        raise RankError(message)
    # Each rank reads the files itself instead of receiving a pickled state.
    return loaded or load_checkpoint(Checkpoint(path), verified=True)


def load_checkpoint(checkpoint: Checkpoint, *, verified: bool = False) -> LoadedCheckpoint:
    """Return a checkpoint of a fit, verified; sharded tensors are not read yet.

    Args:
        checkpoint: The checkpoint.
        verified: Whether another rank has verified the files of sharded tensors already.

    Raises:
        CheckpointError: The checkpoint is damaged, or was not written by a fit.
    """
    parts = checkpoint.parts(verified=verified)
    loaded = LoadedCheckpoint(checkpoint, checkpoint.manifest(), parts)
    missing = [name for name, kind in _INFO.items() if not isinstance(loaded.info.get(name), kind)]
    missing += [name for name in _PARTS if not isinstance(parts.get(name), dict)]
    if missing:
        message = (
            f"{checkpoint.path} was not written by a fit: {', '.join(missing)} is missing; "
            "use fitorch.checkpoint.Checkpoint(path).read() to read its content"
        )
        raise CheckpointError(message)
    return loaded


def checkpoint_at(path: str | Path) -> Checkpoint:
    """Return the checkpoint at a path, or the newest of the run at that path.

    Raises:
        CheckpointNotFoundError: The path does not exist, or has no checkpoint.
        CheckpointError: The path is not a checkpoint of fitorch.
    """
    path = Path(path)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        message = (
            f"{path} ({path.absolute()}) does not exist; {path.parent} contains "
            f"{', '.join(beside[:5]) or 'nothing'}"
        )
        raise CheckpointNotFoundError(message)
    if path.is_file():
        message = (
            f"{path} is a file, but a checkpoint is a folder; to load weights from a file, use "
            "KerasModel.load_ckpt(path)"
        )
        raise UnsafeCheckpointError(message)
    if path.name.startswith("step-"):
        return Checkpoint(path)
    if checkpoints := checkpoints_at(path):
        return checkpoints[0]
    raise _no_checkpoint(path)


def _no_checkpoint(path: Path) -> CheckpointError:
    """Return an error that names the library whose checkpoint a folder looks like."""
    names = {child.name for child in path.iterdir()}
    origin = next((origin for name, origin in _FOREIGN.items() if name in names), "")
    origin = origin or ("a checkpoint of Lightning" if any(path.glob("*.ckpt")) else "")
    if not origin:
        message = f"{path} ({path.absolute()}) has no checkpoint"
        return CheckpointNotFoundError(message)
    message = (
        f"{path} looks like {origin}, which fitorch cannot resume; load its weights with "
        "KerasModel.load_ckpt(file)"
    )
    return CheckpointError(message)
