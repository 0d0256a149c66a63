"""Which checkpoints of a folder stay once a new one is on the disk."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

from fitorch import files as disk

from .checkpoint import Checkpoint
from .manifest import MANIFEST


def completed(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints with a manifest, in the order given; a link is not one of ours."""
    folders = (checkpoint for checkpoint in checkpoints if not checkpoint.path.is_symlink())
    return [checkpoint for checkpoint in folders if (checkpoint.path / MANIFEST).is_file()]


def remove_old(checkpoints: Iterable[Checkpoint], keep: int, protected: Collection[Path]) -> None:
    """Remove all but the newest checkpoints; warn if one cannot be removed.

    Args:
        checkpoints: The checkpoints of a folder, newest first.
        keep: How many to keep.
        protected: Those to keep, however old.

    Raises:
        OSError: The folder cannot be read.
    """
    # Oldest first: if a removal fails or the process is killed, the newer ones are complete.
    for old in reversed(completed(checkpoints)[keep:]):
        if old.path in protected:
            continue
        try:
            disk.remove(old.path)
        except OSError as error:
            warnings.warn(f"cannot remove {old.path}: {error}", stacklevel=2)
