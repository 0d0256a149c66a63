"""Keras' name for a fit that goes on where it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import Callback


class BackupAndRestore(Callback):
    """Go on where an interrupted fit stood, as Keras' callback; `fit(resume=True)` by its name.

    `fit(..., callbacks=[BackupAndRestore("backup")])` keeps checkpoints of all of the fit's state
    in `backup_dir`, goes on with the newest whole one that is there, also in the middle of an
    epoch, and deletes them once training has ended without an error. Unlike `fit(ckpt_path=...)`,
    it keeps no best weights: the net ends with the last ones, as in Keras.

    Args:
        backup_dir: The folder.
        save_freq: "epoch", or a number of updates.
        double_checkpoint: Kept for Keras: there are always two.
        delete_checkpoint: Whether to delete the folder's checkpoints at the end.

    Raises:
        ValueError: `save_freq` is neither "epoch" nor a number >= 1.
    """

    def __init__(
        self,
        backup_dir: str | Path,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        if not str(backup_dir):
            message = "backup_dir is empty; expected the name of a folder"
            raise ValueError(message)
        number = isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0
        if save_freq != "epoch" and not number:
            message = f"save_freq is {save_freq!r}; expected 'epoch' or a number of updates >= 1"
            raise ValueError(message)
        self.every_n_steps: Any = None if save_freq == "epoch" else save_freq
        self.backup_dir = Path(backup_dir)
        self.save_freq = save_freq
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
