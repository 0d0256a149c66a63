"""List checkpoints in a table."""

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
    """Return the checkpoints of a run, newest first, each compared with its digests.

    Args:
        path: The folder of a run (`ckpt_path`), a folder of checkpoints, or a checkpoint.

    Returns:
        The columns step (updates), epoch (completed), batch (of the running epoch), monitor and
        value (the column that decides which epoch is best, and its last value), size (bytes), age
        (seconds), state ("whole", or the error) and path.

    Raises:
        CheckpointNotFoundError: There is no checkpoint.

    Example:
        >>> list_checkpoints("runs/ring")  # doctest: +SKIP
    """
    import pandas as pd

    checkpoints = checkpoints_at(path)
    if not checkpoints:
        message = f"{path} ({Path(path).absolute()}) has no checkpoint"
        raise CheckpointNotFoundError(message)
    rows = [_table_row(checkpoint) for checkpoint in checkpoints]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def checkpoints_at(path: str | Path) -> list[Checkpoint]:
    """Return the checkpoints at a path, newest first; they are not verified."""
    path = Path(path)
    if (path / MANIFEST).exists():
        return [Checkpoint(path)]
    for folder in (path / CHECKPOINTS, path):
        if checkpoints := CheckpointStore(folder).list():
            return checkpoints
    return []


def _table_row(checkpoint: Checkpoint) -> dict[str, object]:
    try:
        manifest = checkpoint.verify()
    except CheckpointError as error:
        return {"step": checkpoint.step, "state": str(error), "path": str(checkpoint.path)}
    return {
        "step": manifest.step,
        **{name: manifest.info.get(name) for name in ("epoch", "batch", "monitor", "value")},
        "size": manifest.size,
        "age": time.time() - manifest.created,
        "state": "whole",
        "path": str(checkpoint.path),
    }
