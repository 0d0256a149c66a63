"""Trackers with the names and arguments that torchkeras gives them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitorch.distributed.fsdp import is_sharded

from .base import Logs
from .tracker import Tracker


class TensorBoardCallback(Tracker):
    """Write the figures of each epoch for TensorBoard (torchkeras').

    Look at them with `tensorboard --logdir runs`. See `Tracker` for what is written. Unlike that of
    Keras it writes one run a fit, in which figures have the names that they have in the history.

    Args:
        save_dir: The folder for all runs.
        model_name: The folder in it for those of this model; each run has one of its own there.
        log_weight: Write histograms of the net's parameters too.
        log_weight_freq: Epochs from one histogram to the next.

    Raises:
        ValueError: `log_weight_freq` is below 1.
        ImportError: tensorboard is not installed.
    """

    def __init__(
        self,
        save_dir: str | Path = "runs",
        model_name: str = "model",
        log_weight: bool = False,
        log_weight_freq: int = 5,
    ) -> None:
        if log_weight_freq < 1:
            message = f"log_weight_freq is {log_weight_freq!r}; expected a number of epochs >= 1"
            raise ValueError(message)
        super().__init__("tensorboard", model_name, logging_dir=save_dir)
        self.log_weight = log_weight
        self.log_weight_freq = log_weight_freq

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begin a run.

        Raises:
            ValueError: Weights are wanted of a net that is sharded.
        """
        super().on_train_begin(logs)
        if self.log_weight and is_sharded(self.model.net):
            message = "log_weight=True needs whole weights, but the net is sharded; pass False"
            raise ValueError(message)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the figures, and histograms where they are due."""
        super().on_epoch_end(epoch, logs)
        if not self.log_weight or (epoch + 1) % self.log_weight_freq:
            return
        for name, parameter in self.model.net.named_parameters():
            values = parameter.detach().float().cpu()
            values = values[values.isfinite()]  # TensorBoard refuses others
            if values.numel():
                self.tracker.tracker.add_histogram(name, values, epoch + 1)


class WandbCallback(Tracker):
    """Send the figures of each epoch to Weights & Biases (torchkeras').

    See `Tracker` for what is sent. `WANDB_MODE=offline` keeps everything on this machine.

    Args:
        project: The project; None as wandb is configured, by `WANDB_PROJECT` for one.
        config: As for `Tracker`.
        name: The run's name; None lets wandb find one.
        save_ckpt: Upload the best weights at the end, as the artifact "checkpoint", where the fit
            wrote any (`ckpt_path`).
        save_code: Upload the script, where wandb is allowed to.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(
        self,
        project: str | None = None,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        save_ckpt: bool = True,
        save_code: bool = True,
    ) -> None:
        super().__init__("wandb", project, config=config, save_code=save_code)
        if name is not None:
            self.options["name"] = name
        self.save_ckpt = save_ckpt
        self._old: dict[Path, int] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open a run, or go on in the last one."""
        super().on_train_begin(logs)
        self._old = self._weights()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Upload the best weights, and close the run."""
        try:
            if self.save_ckpt and self.tracker is not None:
                self._upload()
        finally:
            super().on_train_end(logs)

    def _upload(self) -> None:
        files = [file for file, time in self._weights().items() if self._old.get(file) != time]
        if not files:
            return
        artifact = importlib.import_module("wandb").Artifact("checkpoint", type="model")
        for file in files:
            artifact.add_file(str(file))
        self.tracker.tracker.log_artifact(artifact)

    def _weights(self) -> dict[Path, int]:
        """Return the files with the best weights, the loss' own among them, and when written."""
        folder = getattr(getattr(self, "model", None), "ckpt_path", None)
        files = () if folder is None else Path(folder).glob("best*.safetensors")
        return {file: file.stat().st_mtime_ns for file in files}
