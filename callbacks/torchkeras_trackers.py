"""Tracker callbacks with the names and arguments of torchkeras."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitorch.checks import check_flag
from fitorch.distributed.fsdp import is_sharded

from .base import Logs
from .tracker import Tracker


class TensorBoardCallback(Tracker):
    """Write the values of each epoch for TensorBoard, as torchkeras' callback does.

    `tensorboard --logdir runs` shows them. `Tracker` documents what is written. Unlike Keras'
    callback, it writes one run per fit, with the column names of the history.

    Args:
        save_dir: The folder for all runs.
        model_name: The folder in `save_dir` for the runs of this model; each run has a subfolder.
        log_weight: Whether to write histograms of the net's parameters too.
        log_weight_freq: The number of epochs between two histograms.

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
        self.log_weight = check_flag("log_weight", log_weight)
        self.log_weight_freq = log_weight_freq

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open a run.

        Raises:
            ValueError: `log_weight` is True, but the net is sharded.
        """
        super().on_train_begin(logs)
        if self.log_weight and is_sharded(self.model.net):
            message = "log_weight=True does not support sharded nets; pass log_weight=False"
            raise ValueError(message)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the values, and the histograms if they are due."""
        super().on_epoch_end(epoch, logs)
        if not self.log_weight or (epoch + 1) % self.log_weight_freq:
            return
        for name, parameter in self.model.net.named_parameters():
            # This waits for the device, once per parameter and histogram.
            values = parameter.detach().float().cpu()
            values = values[values.isfinite()]  # TensorBoard raises an error for others
            if values.numel():
                self.tracker.tracker.add_histogram(name, values, epoch + 1)


class WandbCallback(Tracker):
    """Log the values of each epoch to Weights & Biases, as torchkeras' callback does.

    `Tracker` documents what is logged. `WANDB_MODE=offline` keeps everything on this machine.

    Args:
        project: The project; None uses the configuration of wandb, such as `WANDB_PROJECT`.
        config: As for `Tracker`.
        name: The name of the run; None leaves the choice to wandb.
        save_ckpt: Whether to upload the best weights at the end, as the artifact "checkpoint", if
            the fit saves them (`ckpt_path`).
        save_code: Whether to upload the script, if the settings of wandb permit it.

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
        self.save_ckpt = check_flag("save_ckpt", save_ckpt)
        self._earlier_files: dict[Path, int] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open a run, or continue the last one."""
        super().on_train_begin(logs)
        # Files of an earlier fit are not uploaded: only changed ones belong to this run.
        self._earlier_files = self._best_files()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Upload the best weights, and close the run."""
        try:
            # The upload comes before the end of the run, which ends uploads.
            if self.save_ckpt and self.tracker is not None:
                self._upload()
        finally:
            super().on_train_end(logs)

    def _upload(self) -> None:
        earlier = self._earlier_files
        files = [file for file, time in self._best_files().items() if earlier.get(file) != time]
        if not files:
            return
        artifact = importlib.import_module("wandb").Artifact("checkpoint", type="model")
        for file in files:
            artifact.add_file(str(file))
        self.tracker.tracker.log_artifact(artifact)

    def _best_files(self) -> dict[Path, int]:
        """Return the files with the best weights of net and loss, and their modification times."""
        folder = getattr(getattr(self, "model", None), "ckpt_path", None)
        files = () if folder is None else Path(folder).glob("best*.safetensors")
        return {file: file.stat().st_mtime_ns for file in files}
