"""What checkpoints there are, as a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fitorch.errors import CheckpointError, CheckpointNotFoundError

from .checkpoint import Checkpoint
from .manifest import MANIFEST
from .run_folder import CHECKPOINTS
from .store import CheckpointStore

if TYPE_CHECKING:
    import pandas as pd


_COLUMNS = ("step", "epoch", "batch", "monitor", "value", "size", "age", "state", "path")


def list_checkpoints(path: str | Path) -> pd.DataFrame:
    """Return the checkpoints of a run, the newest first, each compared with what was written.

    Args:
        path: The folder of a run (`ckpt_path`), one of checkpoints, or a checkpoint.

    Returns:
        The columns step (updates), epoch (completed), batch (of the epoch under way), monitor and
        value (the figure that decides what is best, of the last epoch), size (bytes), age
        (seconds), state ("whole", or what is wrong) and path.

    Raises:
        CheckpointNotFoundError: There is none.

    Example:
        >>> list_checkpoints("runs/ring")  # doctest: +SKIP
    """
    import pandas as pd

    found = checkpoints_at(path)
    if not found:
        message = f"there is no checkpoint in {path} ({Path(path).absolute()})"
        raise CheckpointNotFoundError(message)
    return pd.DataFrame([_row(checkpoint) for checkpoint in found], columns=list(_COLUMNS))


def checkpoints_at(path: str | Path) -> list[Checkpoint]:
    """Return what claims to be a checkpoint at a path, the newest first; nothing is verified."""
    path = Path(path)
    if (path / MANIFEST).exists():
        return [Checkpoint(path)]
    for folder in (path / CHECKPOINTS, path):
        if found := CheckpointStore(folder).list():
            return found
    return []


def _row(checkpoint: Checkpoint) -> dict[str, object]:
    try:
        manifest = checkpoint.verify()
    except CheckpointError as error:
        return {"step": checkpoint.step, "state": str(error), "path": str(checkpoint.path)}
    told = {name: manifest.info.get(name) for name in ("epoch", "batch", "monitor", "value")}
    return {
        "step": manifest.step,
        **told,
        "size": manifest.size,
        "age": time.time() - manifest.created,
        "state": "whole",
        "path": str(checkpoint.path),
    }
