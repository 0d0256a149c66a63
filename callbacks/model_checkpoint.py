"""Checkpoint callbacks: weights or whole checkpoints in files, during training."""

from __future__ import annotations

import math
import string
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fitorch.checks import check_flag, plain
from fitorch.files import remove

from .base import Callback, Logs
from .monitor import MonitorCallback

if TYPE_CHECKING:
    from .trained_model import TrainedModel

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class ModelCheckpoint(MonitorCallback):
    """Save weights or whole checkpoints after epochs, or every so many batches or minutes.

    It is Keras' callback with the additional arguments `save_top_k`, `every_n_steps` and
    `every_minutes`. Plain torch and `KerasModel.load_ckpt` can load the weights; a file is replaced
    only when the new one is complete. A path without a suffix is a folder for a whole checkpoint,
    for `fit(resume=path)` and `model.restore(path)`. The best value is kept from fit to fit, as in
    Keras; NaN is never the best.

    Args:
        filepath: The file, `.safetensors` or torch's `.pt`, or a folder for a whole checkpoint.
            It may have placeholders: `{epoch:02d}` (counted from 1), `{batch}`, and columns, such
            as `{val_loss:.3f}`.
        monitor: The column to monitor.
        verbose: Accepted for compatibility with Keras.
        save_best_only: Whether to save only if the monitored value is the best so far.
        save_weights_only: Whether `filepath` must be a file of weights, not a folder.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: The value that the first one must beat.
        save_top_k: The number of best files to keep; others that this callback saved are deleted.
        every_n_steps: The number of batches, over all epochs, between two files.
        every_minutes: The number of minutes between two files; a file is saved after a batch.

    Attributes:
        saved: The saved files or folders that exist, in the order in which they were saved.

    Raises:
        ValueError: An argument is out of range, or conflicts with another. Before training: a
            placeholder is not a column.
    """

    comes_last: ClassVar[bool] = True  # so that a checkpoint has the states of all callbacks

    def __init__(  # noqa: PLR0913 - Keras' arguments, by their names
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        save_top_k: int | None = None,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath = Path(filepath)
        self.verbose = verbose
        self.save_best_only = check_flag("save_best_only", save_best_only)
        self.save_weights_only = check_flag("save_weights_only", save_weights_only)
        self.initial_value_threshold = plain(initial_value_threshold)
        self.save_top_k = plain(save_top_k)
        self.every_n_steps: Any = plain(every_n_steps if save_freq == "epoch" else save_freq)
        self.every_minutes = plain(every_minutes)
        self._check_arguments(save_freq)
        self.saved: list[str] = []
        self._values: list[float] = []  # of the files in `saved`, with save_top_k
        self._batches = 0
        self._due = False
        self._epoch = 0
        # The threshold is the value to beat until a file is better.
        self.watched.best = initial_value_threshold

    @property
    def watches(self) -> bool:
        """Whether the callback uses the monitored value."""
        return self.save_best_only or self.save_top_k is not None

    @property
    def placeholders(self) -> list[str]:
        """The columns in the file's name."""
        names = [name for _, name, _, _ in string.Formatter().parse(str(self.filepath)) if name]
        return [name for name in names if name not in ("epoch", "batch")]

    def forget(self) -> None:
        """Keep the best value, as Keras does: a second fit must not overwrite a better file."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that files can be written, and start the clock.

        Raises:
            OSError: The folder is not writable.
        """
        super().on_train_begin(logs)
        folder = self.filepath.parent
        # Placeholders in the name of a folder are not known yet.
        while "{" in str(folder):
            folder = folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".fitorch"
        # Writing shows an unwritable folder before the first epoch, not after it.
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have deleted it
        self._last_save = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Record the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save if it is due."""
        self._batches += 1
        if self.every_n_steps is not None and not self._batches % self.every_n_steps:
            # Batches are counted alike by all processes, so they need no message.
            self._due = True
        elif self.every_minutes is not None:
            late = time.monotonic() - self._last_save >= 60 * self.every_minutes
            # Synchronizes the processes: their clocks differ, but all must save after one batch.
            self._due = self._due or self.model.placement.processes.broadcast(late)
        # A whole checkpoint waits for the end of an update: it has no accumulated gradients.
        if self._due and not (self._saves_state and self.model.within_update):
            self._due, self._last_save = False, time.monotonic()
            self._save(batch + 1, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save, with `save_best_only` or `save_top_k` only if the value is good enough."""
        if self.every_n_steps is not None or self.every_minutes is not None:
            return
        if not self.watches:
            self._save(0, logs or {})
            return
        value = self.value_in(logs)
        if value is None:
            return
        better = self.watched.improves(value, epoch)
        if self.save_best_only and not better:
            return
        if not math.isnan(value) and self._is_among_the_best(value):
            self._save(0, logs or {}, value)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the saved files and their values."""
        files = {"saved": list(self.saved), "values": list(self._values), "batches": self._batches}
        return {**super().state_dict(), **files}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state)
        self.saved, self._values = list(state["saved"]), list(state["values"])
        self._batches = state["batches"]

    def _save(self, batch: int, logs: Logs, value: float | None = None) -> None:
        values = {name: logs[name] for name in self.placeholders if name in logs}
        try:
            path = str(self.filepath).format(epoch=self._epoch + 1, batch=batch, **values)
        except KeyError as error:
            message = f"{self.filepath} has the placeholder {error}, which was not measured"
            raise KeyError(message) from error
        # The lists are restored if saving fails, so that they name existing files only.
        before = list(self.saved), list(self._values)
        self._record_path(
            path, value
        )  # before it is saved: a checkpoint holds this callback's state too
        try:
            self.model.save_state(path) if self._saves_state else self.model.save_ckpt(path)
        except Exception:
            self.saved, self._values = before
            raise
        # Files are deleted after saving: there are never fewer than save_top_k.
        self._delete_worst()

    def _record_path(self, path: str, value: float | None) -> None:
        """Record a file as the newest one."""
        if path in self.saved:
            index = self.saved.index(path)
            del self.saved[index]
            if self._values:
                del self._values[index]
        self.saved.append(path)
        if self.save_top_k is not None and value is not None:
            self._values.append(value)

    def _is_among_the_best(self, value: float) -> bool:
        if self.save_top_k is None or len(self._values) < self.save_top_k:
            return True
        # The worst of the kept files is the one to beat.
        return self._worse(max(self._values, key=self._cost), value)

    def _worse(self, value: float, other: float) -> bool:
        return self._cost(value) > self._cost(other)

    def _cost(self, value: float) -> float:
        return value if self.watched.mode == "min" else -value

    def _delete_worst(self) -> None:
        while self.save_top_k is not None and len(self._values) > self.save_top_k:
            worst = max(range(len(self._values)), key=lambda i: self._cost(self._values[i]))
            del self._values[worst]
            _delete(Path(self.saved.pop(worst)), self.model)

    @property
    def _saves_state(self) -> bool:
        """Whether the callback saves whole checkpoints instead of weights."""
        return not self.filepath.suffix or "{" in self.filepath.suffix

    def _check_arguments(self, save_freq: Any) -> None:
        weights = self.filepath.suffix in _SUFFIXES
        if not weights and (self.save_weights_only or not self._saves_state):
            folder = "" if self.save_weights_only else ", or no suffix for whole checkpoints"
            message = (
                f"filepath is {str(self.filepath)!r}; expected one of the suffixes "
                f"{', '.join(_SUFFIXES)}{folder}"
            )
            raise ValueError(message)
        if save_freq != "epoch":
            _check_positive("save_freq", self.every_n_steps)
        for name in ("save_top_k", "every_n_steps"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        if self.every_minutes is not None and not self.every_minutes > 0:
            message = f"every_minutes is {self.every_minutes!r}; expected a number above 0"
            raise ValueError(message)
        within_epochs = self.every_n_steps is not None or self.every_minutes is not None
        if within_epochs and self.watches:
            message = (
                "save_best_only and save_top_k compare epochs; they cannot be combined with "
                "save_freq, every_n_steps and every_minutes"
            )
            raise ValueError(message)
        val_names = [name for name in self.placeholders if name.startswith("val_")]
        if within_epochs and val_names:
            message = (
                f"{self.filepath} has the placeholder {val_names[0]}, which is not measured within "
                "an epoch"
            )
            raise ValueError(message)


class EpochCheckpoint(Callback):
    """Save the net's weights every `save_freq` epochs, as torchkeras' callback does.

    Args:
        ckpt_dir: The folder; its files are named `epoch_0007.safetensors`, counted from 1.
        save_freq: The number of epochs between two files.
        max_ckpt: The number of files to keep; older ones that this callback saved are deleted.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self, ckpt_dir: str | Path = "weights", save_freq: int = 1, max_ckpt: int = 10
    ) -> None:
        self.ckpt_dir = Path(ckpt_dir)
        self.save_freq, self.max_ckpt = plain(save_freq), plain(max_ckpt)
        _check_positive("save_freq", self.save_freq)
        _check_positive("max_ckpt", self.max_ckpt)
        self.saved: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Create the folder.

        Raises:
            OSError: The folder cannot be created.
        """
        self.ckpt_dir.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save if it is due, and delete the oldest file."""
        if (epoch + 1) % self.save_freq:
            return
        path = self.model.save_ckpt(self.ckpt_dir / f"epoch_{epoch + 1:04d}.safetensors")
        # A resumed fit may write a file again; it is then the newest.
        self.saved = [name for name in self.saved if name != str(path)] + [str(path)]
        while len(self.saved) > self.max_ckpt:
            _delete(Path(self.saved.pop(0)), self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the saved files."""
        return {"saved": list(self.saved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the list of saved files."""
        self.saved = list(state["saved"])


def _delete(path: Path, model: TrainedModel) -> None:
    """Delete a file of weights or a checkpoint folder, on the main process."""
    # All processes record the files; one deletes them.
    if not model.is_main_process:
        return
    if path.is_dir():
        remove(path)
    else:
        path.unlink(missing_ok=True)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        message = f"{name} is {value!r}; expected a number >= 1"
        raise ValueError(message)
