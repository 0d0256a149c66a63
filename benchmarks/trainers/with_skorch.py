"""skorch: a classifier with scikit-learn's verbs, given tensors."""

from __future__ import annotations

import torch
from contenders import Run
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from workloads import Workload

from .tasks import Reported, is_binary


def build(workload: Workload) -> Run:
    """Build the classifier; binary targets are one-dimensional, as skorch wants them."""
    binary = is_binary(workload)
    (x, y), (x_val, y_val) = workload.train, workload.val
    if binary:
        y, y_val = y.squeeze(1), y_val.squeeze(1)
    scoring = EpochScoring("accuracy", name="train_acc", on_train=True, lower_is_better=False)
    net = (NeuralNetBinaryClassifier if binary else NeuralNetClassifier)(
        workload.net,
        criterion=type(workload.loss_fn),
        optimizer=torch.optim.Adam,
        optimizer__fused=True,
        lr=workload.lr,
        batch_size=workload.batch_size,
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(x_val, y_val)),
        callbacks=[("train_acc", scoring)],
        verbose=0,
    )
    net.initialize()

    def run(epochs: int) -> Reported:
        net.partial_fit(x, y, epochs=epochs)
        last = net.history[-1]
        return {
            "train_loss": last["train_loss"],
            "train_acc": last["train_acc"],
            "val_loss": last["valid_loss"],
            "val_acc": last["valid_acc"],
        }

    return run
