"""Lightning: a LightningModule, with three settings of its Trainer."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import lightning
from contenders import Run, Terminal
from torch import Tensor
from workloads import Workload

from .tasks import Reported, accuracy, adam, loaders

_FIGURES = ("train_loss", "train_acc", "val_loss", "val_acc")


class Module(lightning.LightningModule):
    """A net with its loss, accuracy and optimizer, as Lightning's documents write it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.net, self.loss_fn = workload.net, workload.loss_fn
        self.optimizer = adam(workload)
        self.train_acc, self.val_acc = accuracy(workload), accuracy(workload)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return a batch's loss; log its figures."""
        x, y = batch
        y_pred = self.net(x)
        loss = self.loss_fn(y_pred, y)
        self.train_acc(y_pred, y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log a batch's figures."""
        x, y = batch
        y_pred = self.net(x)
        self.val_acc(y_pred, y)
        self.log("val_loss", self.loss_fn(y_pred, y))
        self.log("val_acc", self.val_acc)

    def configure_optimizers(self) -> Any:
        """Return the one optimizer of all runs."""
        return self.optimizer


def as_it_comes(workload: Workload) -> Run:
    """Build the Trainer with its defaults, its bar on a terminal."""
    return _build(workload)


def quiet(workload: Workload) -> Run:
    """Build the Trainer without all that can be turned off and still reports figures."""
    return _build(
        workload,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def barebones(workload: Workload) -> Run:
    """Build the Trainer in the mode that Lightning has for measuring overhead."""
    return _build(workload, barebones=True)


def _build(workload: Workload, **settings: Any) -> Run:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, (train, val), terminal = Module(workload), loaders(workload), Terminal()

    def run(epochs: int) -> Reported:
        with contextlib.redirect_stdout(terminal.file), contextlib.redirect_stderr(terminal.file):
            trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, **settings)
            trainer.fit(module, train, val)
        found = trainer.callback_metrics
        return {name: float(found[name]) for name in _FIGURES if name in found}

    return run
