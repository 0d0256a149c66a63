"""fastai: a Learner over plain DataLoaders of torch."""

from __future__ import annotations

from functools import partial

import torch
from contenders import Run
from fastai.basics import DataLoaders, Learner, OptimWrapper, accuracy, accuracy_multi
from workloads import Workload

from .tasks import Reported, is_binary, loaders


def build(workload: Workload) -> Run:
    """Build a Learner with torch's Adam and a constant rate."""
    learner = Learner(
        DataLoaders(*loaders(workload)),
        workload.net,
        loss_func=workload.loss_fn,
        opt_func=partial(OptimWrapper, opt=partial(torch.optim.Adam, fused=True)),
        lr=workload.lr,
        metrics=accuracy_multi if is_binary(workload) else accuracy,
    )

    def run(epochs: int) -> Reported:
        with learner.no_logging():
            learner.fit(epochs)
        train_loss, val_loss, val_acc = learner.recorder.values[-1]
        return {"train_loss": train_loss, "val_loss": val_loss, "val_acc": val_acc}

    return run
