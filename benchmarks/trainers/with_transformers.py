"""Transformers' Trainer: a module that returns its own loss, and a dataset of mappings."""

from __future__ import annotations

from typing import Any

import numpy as np
from contenders import Run
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments
from workloads import Arrays, Workload

from .tasks import Reported, adam, is_binary


class WithLoss(nn.Module):
    """A net that takes labels and gives loss and logits, as the Trainer wants it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.net, self.loss_fn = workload.net, workload.loss_fn

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits of a batch."""
        logits = self.net(x)
        return {"loss": self.loss_fn(logits, labels), "logits": logits}


class Samples(Dataset[Any]):
    """Samples as mappings."""

    def __init__(self, arrays: Arrays) -> None:
        self.x, self.y = arrays

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


def build(workload: Workload) -> Run:
    """Build a Trainer for each run, with one module and one optimizer."""
    module, optimizer = WithLoss(workload), adam(workload)
    train, val = Samples(workload.train), Samples(workload.val)
    metric = _binary_accuracy if is_binary(workload) else _accuracy

    def run(epochs: int) -> Reported:
        trainer = Trainer(
            module,
            _arguments(workload, epochs),
            train_dataset=train,
            eval_dataset=val,
            optimizers=(optimizer, None),
            compute_metrics=metric,
        )
        trainer.train()
        found = {
            name: value for entry in trainer.state.log_history for name, value in entry.items()
        }
        names = {"loss": "train_loss", "eval_loss": "val_loss", "eval_acc": "val_acc"}
        return {ours: float(found[name]) for name, ours in names.items()}

    return run


def _arguments(workload: Workload, epochs: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir="transformers",
        num_train_epochs=epochs,
        per_device_train_batch_size=workload.batch_size,
        per_device_eval_batch_size=workload.batch_size,
        learning_rate=workload.lr,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        use_cpu=True,
    )


def _binary_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"acc": float(np.mean((prediction.predictions > 0) == prediction.label_ids))}


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"acc": float(np.mean(prediction.predictions.argmax(1) == prediction.label_ids))}
