"""Weights in files, while training goes on."""

from __future__ import annotations

import math
import string
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fitorch.files import remove

from .base import Callback, Logs
from .monitor import MonitorCallback

if TYPE_CHECKING:
    from .trained_model import TrainedModel

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class ModelCheckpoint(MonitorCallback):
    """Save weights, or all of a fit's state, after epochs or every so many batches or minutes.

    Keras' callback, with `save_top_k`, `every_n_steps` and `every_minutes`. Weights load in
    plain torch, and with `KerasModel.load_ckpt`; a file is replaced only once all is written. A
    name without suffix is that of a folder, which gets a whole checkpoint, to go on with:
    `fit(resume=path)`, `model.restore(path)`. The best value is kept from fit to fit, as in Keras;
    NaN is never best.

    Args:
        filepath: The file, `.safetensors` or torch's `.pt`, or a folder for a whole checkpoint,
            with placeholders: `{epoch:02d}` (counted from 1), `{batch}`, and any figure, as
            `{val_loss:.3f}`.
        monitor: The figure that decides what is best.
        verbose: Kept for Keras.
        save_best_only: Save only where the figure is better than ever.
        save_weights_only: Whether weights alone are wanted, which a folder has more than; a file
            holds nothing else.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: A value to beat from the first.
        save_top_k: Keep so many of the best files, and delete the others that were saved here.
        every_n_steps: Save every so many batches, over all epochs.
        every_minutes: Save after the batch in which so many minutes are over.

    Attributes:
        saved: The files, or folders, that are there, in the order in which they were saved.

    Raises:
        ValueError: An argument is out of range, or does not go with the others; a placeholder that
            names no figure is told before training.
    """

    comes_last: ClassVar[bool] = True  # a checkpoint holds the states of all callbacks before it

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
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.initial_value_threshold = initial_value_threshold
        self.save_top_k = save_top_k
        self.every_n_steps: Any = every_n_steps if save_freq == "epoch" else save_freq
        self.every_minutes = every_minutes
        self._check(save_freq)
        self.saved: list[str] = []
        self._values: list[float] = []  # of the files in `saved`, where the best are kept
        self._batches = 0
        self._due = False
        self._epoch = 0
        self.watched.best = initial_value_threshold

    @property
    def watches(self) -> bool:
        """Whether it looks at the figure."""
        return self.save_best_only or self.save_top_k is not None

    @property
    def placeholders(self) -> list[str]:
        """The figures in the file's name."""
        found = [name for _, name, _, _ in string.Formatter().parse(str(self.filepath)) if name]
        return [name for name in found if name not in ("epoch", "batch")]

    def forget(self) -> None:
        """Keep what has been best, as Keras does: a second fit must not overwrite a better file."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Look whether files can be written, and start the clock.

        Raises:
            OSError: The folder can't be written.
        """
        super().on_train_begin(logs)
        folder = self.filepath.parent
        while "{" in str(folder):
            folder = folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".fitorch"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have been quicker
        self._last = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remember the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save where it is time."""
        self._batches += 1
        if self.every_n_steps is not None and not self._batches % self.every_n_steps:
            self._due = True
        elif self.every_minutes is not None:
            late = time.monotonic() - self._last >= 60 * self.every_minutes
            self._due = self._due or self.model.placement.processes.broadcast(late)
        if self._due and not (self._whole and self.model.within_update):
            self._due, self._last = False, time.monotonic()
            self._save(batch + 1, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save, or look whether the epoch is worth it."""
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
        """Return what has been best, and what was saved."""
        kept = {"saved": list(self.saved), "values": list(self._values), "batches": self._batches}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        super().load_state_dict(state)
        self.saved, self._values = list(state["saved"]), list(state["values"])
        self._batches = state["batches"]

    def _save(self, batch: int, logs: Logs, value: float | None = None) -> None:
        figures = {name: logs[name] for name in self.placeholders if name in logs}
        try:
            path = str(self.filepath).format(epoch=self._epoch + 1, batch=batch, **figures)
        except KeyError as error:
            message = f"{self.filepath} names {error}, which this epoch did not measure"
            raise KeyError(message) from error
        before = list(self.saved), list(self._values)
        self._note(path, value)  # before it is saved: a checkpoint holds this callback's state too
        try:
            self.model.save_state(path) if self._whole else self.model.save_ckpt(path)
        except Exception:
            self.saved, self._values = before
            raise
        self._delete_the_worst()

    def _note(self, path: str, value: float | None) -> None:
        """Count a file as the newest."""
        if path in self.saved:
            place = self.saved.index(path)
            del self.saved[place]
            if self._values:
                del self._values[place]
        self.saved.append(path)
        if self.save_top_k is not None and value is not None:
            self._values.append(value)

    def _is_among_the_best(self, value: float) -> bool:
        if self.save_top_k is None or len(self._values) < self.save_top_k:
            return True
        return self._worse(max(self._values, key=self._badness), value)

    def _worse(self, value: float, other: float) -> bool:
        return self._badness(value) > self._badness(other)

    def _badness(self, value: float) -> float:
        return value if self.watched.mode == "min" else -value

    def _delete_the_worst(self) -> None:
        while self.save_top_k is not None and len(self._values) > self.save_top_k:
            worst = max(range(len(self._values)), key=lambda i: self._badness(self._values[i]))
            del self._values[worst]
            _delete(Path(self.saved.pop(worst)), self.model)

    @property
    def _whole(self) -> bool:
        """Whether whole checkpoints are saved."""
        return not self.filepath.suffix or "{" in self.filepath.suffix

    def _check(self, save_freq: Any) -> None:
        weights = self.filepath.suffix in _SUFFIXES
        if not weights and (self.save_weights_only or not self._whole):
            what = "" if self.save_weights_only else ", or, for whole checkpoints, in no suffix"
            message = (
                f"filepath is {str(self.filepath)!r}; expected a name that ends in "
                f"{', '.join(_SUFFIXES)}{what}"
            )
            raise ValueError(message)
        if save_freq != "epoch":
            _check_count("save_freq", save_freq)
        for name in ("save_top_k", "every_n_steps"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if self.every_minutes is not None and not self.every_minutes > 0:
            message = f"every_minutes is {self.every_minutes!r}; expected a number above 0"
            raise ValueError(message)
        within = self.every_n_steps is not None or self.every_minutes is not None
        if within and self.watches:
            message = (
                "the best is decided by the figures of epochs; save_best_only and save_top_k don't "
                "go with save_freq, every_n_steps and every_minutes"
            )
            raise ValueError(message)
        figures = [name for name in self.placeholders if name.startswith("val_")]
        if within and figures:
            message = f"{self.filepath} names {figures[0]}, which is not known within an epoch"
            raise ValueError(message)


class EpochCheckpoint(Callback):
    """Save the net's weights every `save_freq` epochs, the last `max_ckpt` of them (torchkeras').

    Args:
        ckpt_dir: The folder; files are called `epoch_0007.safetensors`, counted from 1.
        save_freq: Epochs from one file to the next.
        max_ckpt: Files to keep; older ones that were saved here are deleted.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self, ckpt_dir: str | Path = "weights", save_freq: int = 1, max_ckpt: int = 10
    ) -> None:
        _check_count("save_freq", save_freq)
        _check_count("max_ckpt", max_ckpt)
        self.ckpt_dir = Path(ckpt_dir)
        self.save_freq = save_freq
        self.max_ckpt = max_ckpt
        self.saved: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Make the folder.

        Raises:
            OSError: It can't be made.
        """
        self.ckpt_dir.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save where it is due, and delete the oldest."""
        if (epoch + 1) % self.save_freq:
            return
        path = self.model.save_ckpt(self.ckpt_dir / f"epoch_{epoch + 1:04d}.safetensors")
        self.saved = [name for name in self.saved if name != str(path)] + [str(path)]
        while len(self.saved) > self.max_ckpt:
            _delete(Path(self.saved.pop(0)), self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return what was saved."""
        return {"saved": list(self.saved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.saved = list(state["saved"])


def _delete(path: Path, model: TrainedModel) -> None:
    """Remove a file of weights, or a checkpoint; of several processes the main one does."""
    if not model.is_main_process:
        return
    if path.is_dir():
        remove(path)
    else:
        path.unlink(missing_ok=True)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        message = f"{name} is {value!r}; expected a number >= 1"
        raise ValueError(message)
