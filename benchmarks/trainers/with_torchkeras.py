"""torchkeras: a KerasModel with DataLoaders."""

from __future__ import annotations

import contextlib

from contenders import Run, Terminal
from torchkeras import KerasModel
from workloads import Workload

from .tasks import Reported, accuracy, adam, loaders


def build(workload: Workload) -> Run:
    """Build a model for each run: a second `fit` of one would begin with a phantom epoch."""
    train, val = loaders(workload)
    optimizer, terminal = adam(workload), Terminal()

    def run(epochs: int) -> Reported:
        model = KerasModel(workload.net, workload.loss_fn, {"acc": accuracy(workload)}, optimizer)
        with contextlib.redirect_stdout(terminal.file):
            frame = model.fit(
                train, val, epochs, "checkpoint", patience=epochs + 1, plot=False, cpu=True
            )
        names = ("train_loss", "train_acc", "val_loss", "val_acc")
        return {name: float(frame[name].iloc[-1]) for name in names}

    return run
