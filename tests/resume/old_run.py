"""Two short runs that are cut: what commit eecb89b left of them lies in `fixtures`.

`PYTHONPATH=tests python tests/resume/old_run.py FOLDER` writes the fixtures anew; run it with the
environment of the commit whose checkpoints are wanted. It uses the public interface alone, so that
the same lines train with every version.
"""

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import EMA, Callback, EarlyStopping

EPOCHS, STEPS = 6, 5  # of the whole run, and in an epoch
CUTS = {"mid_epoch": 12, "epoch_end": 10}  # updates before the cut


class Noise(nn.Module):
    """Draws from torch's global generator at each step."""

    def forward(self, x):
        return x + 0.1 * torch.randn_like(x) if self.training else x


class Cut(Callback):
    """Fails after some updates; the fit then saves what it has, and ends."""

    def __init__(self, update):
        self.update, self.completed = update, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.fail_if_due()

    def on_train_batch_end(self, batch, logs=None):
        self.completed += 1
        if self.update % STEPS:  # else the epoch ends first
            self.fail_if_due()

    def fail_if_due(self):
        if self.completed == self.update:
            message = "cut"
            raise RuntimeError(message)


def data(name):
    """Return training data, shuffled by fitorch or by a loader, and data to validate on."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(56, 4, generator=generator)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(56, 1, generator=generator)
    train, val = (x[:40], y[:40]), (x[40:], y[40:])
    if name == "mid_epoch":
        return train, val
    return DataLoader(TensorDataset(*train), batch_size=8, shuffle=True), val


def fit(name, folder, cut=None, **arguments):
    """Train up to the cut, if there is one; return the model."""
    cuts = [] if cut is None else [Cut(cut)]
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), Noise(), nn.Linear(8, 1)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    model = KerasModel(net, "mse", {"mae": "mae"}, optimizer, lr_scheduler=schedule)
    train, val = data(name)
    model.fit(
        train,
        val,
        epochs=EPOCHS,
        batch_size=8,
        ckpt_path=folder,
        patience=20,
        seed=11,
        cpu=True,
        plot=False,
        verbose=0,
        callbacks=[EMA(0.9), EarlyStopping("val_mae", patience=20), *cuts],
        **arguments,
    )
    return model


def write(folder):
    """Write the fixtures: of each run its newest checkpoint, best weights and history."""
    for name, update in CUTS.items():
        run = Path(folder) / name
        shutil.rmtree(run, ignore_errors=True)
        with suppress(RuntimeError):  # of `Cut`
            fit(name, run, cut=update)
        for earlier in sorted(run.glob("checkpoints/step-*"))[:-1]:
            shutil.rmtree(earlier)


if __name__ == "__main__":
    write(sys.argv[1])
