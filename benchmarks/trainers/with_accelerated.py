"""pytorch-accelerated: a Trainer with datasets, accuracy in a callback."""

from __future__ import annotations

from typing import Any

from contenders import Run
from pytorch_accelerated import Trainer
from pytorch_accelerated.callbacks import (
    MoveModulesToDeviceCallback,
    TerminateOnNaNCallback,
    TrainerCallback,
)
from torch.utils.data import TensorDataset
from workloads import Workload

from .tasks import Reported, accuracy, adam


class Accuracies(TrainerCallback):
    """Measures accuracy with torchmetrics, as the documents of pytorch-accelerated show."""

    def __init__(self, workload: Workload) -> None:
        self.train, self.val = accuracy(workload), accuracy(workload)

    def on_train_step_end(self, trainer: Any, batch: Any, batch_output: Any, **_: Any) -> None:
        """Count a training batch in."""
        self.train.update(batch_output["model_outputs"], batch[1])

    def on_eval_step_end(self, trainer: Any, batch: Any, batch_output: Any, **_: Any) -> None:
        """Count a validation batch in."""
        self.val.update(batch_output["model_outputs"], batch[1])

    def on_train_epoch_end(self, trainer: Any, **_: Any) -> None:
        """Note the epoch's accuracy and begin anew."""
        trainer.run_history.update_metric("train_acc", self.train.compute().item())
        self.train.reset()

    def on_eval_epoch_end(self, trainer: Any, **_: Any) -> None:
        """Note the epoch's accuracy and begin anew."""
        trainer.run_history.update_metric("val_acc", self.val.compute().item())
        self.val.reset()


def build(workload: Workload) -> Run:
    """Build a Trainer without the two callbacks that show progress."""
    callbacks = (MoveModulesToDeviceCallback, TerminateOnNaNCallback, Accuracies(workload))
    trainer = Trainer(workload.net, workload.loss_fn, adam(workload), callbacks)
    train, val = TensorDataset(*workload.train), TensorDataset(*workload.val)

    def run(epochs: int) -> Reported:
        trainer.train(
            train,
            epochs,
            val,
            per_device_batch_size=workload.batch_size,
            train_dataloader_kwargs={"num_workers": 0},
            eval_dataloader_kwargs={"num_workers": 0},
        )
        names = {"train_loss_epoch": "train_loss", "eval_loss_epoch": "val_loss"}
        names |= {"train_acc": "train_acc", "val_acc": "val_acc"}
        latest = trainer.run_history.get_latest_metric
        return {ours: float(latest(name)) for name, ours in names.items()}

    return run
