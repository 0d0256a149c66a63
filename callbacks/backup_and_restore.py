"""BackupAndRestore: Keras' callback for resuming an interrupted fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fitorch.checks import check_flag, plain

from .base import Callback


class BackupAndRestore(Callback):
    """Resume an interrupted fit, as Keras' callback does; it is equivalent to `fit(resume=True)`.

    `fit(..., callbacks=[BackupAndRestore("backup")])` saves checkpoints of the whole training state
    to `backup_dir`, resumes from the newest intact one, even in the middle of an epoch, and deletes
    the checkpoints when training ends without an error. Unlike `fit(ckpt_path=...)`, it does not
    keep the best weights: at the end, the net has the last weights, as in Keras.

    Args:
        backup_dir: The folder for the checkpoints.
        save_freq: "epoch", or a number of updates between two checkpoints.
        double_checkpoint: Accepted for compatibility with Keras; two checkpoints are always kept.
        delete_checkpoint: Whether to delete the checkpoints at the end.

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
            message = "backup_dir is empty; expected the path of a folder"
            raise ValueError(message)
        save_freq = plain(save_freq)
        number = isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0
        if save_freq != "epoch" and not number:
            message = f"save_freq is {save_freq!r}; expected 'epoch' or a number of updates >= 1"
            raise ValueError(message)
        self.every_n_steps: Any = None if save_freq == "epoch" else save_freq
        self.backup_dir = Path(backup_dir)
        self.save_freq = save_freq
        self.double_checkpoint = check_flag("double_checkpoint", double_checkpoint)
        self.delete_checkpoint = check_flag("delete_checkpoint", delete_checkpoint)
