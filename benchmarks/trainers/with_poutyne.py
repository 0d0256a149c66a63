"""Poutyne: a Model with DataLoaders."""

from __future__ import annotations

from contenders import Run
from poutyne import Model
from workloads import Workload

from .tasks import Reported, adam, is_binary, loaders


def build(workload: Workload) -> Run:
    """Build a Model; its accuracy is in percent."""
    metric = "bin_acc" if is_binary(workload) else "acc"
    train, val = loaders(workload)
    model = Model(workload.net, adam(workload), workload.loss_fn, batch_metrics=[metric])

    def run(epochs: int) -> Reported:
        last = model.fit_generator(train, val, epochs=epochs, verbose=False)[-1]
        return {
            "train_loss": last["loss"],
            "train_acc": last[metric] / 100,
            "val_loss": last["val_loss"],
            "val_acc": last[f"val_{metric}"] / 100,
        }

    return run
