"""Digits in a large, noisy learning rate: the averages do better than the weights they are of.

A fine-tuning recipe, too: the head alone trains at first, and gradient norms are columns.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import EMA, SWA, GradientNorm, GradualUnfreeze

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
y = torch.tensor(digits.target)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1000], order[1000:]


def fitted(*callbacks):
    """Train a small net; return the model, whose weights are those that the callbacks left."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("features", nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    ))  # fmt: skip
    net.add_module("head", nn.Linear(108, 10))
    model = KerasModel(net, "cross_entropy", {"acc": "acc"}, torch.optim.SGD(net.parameters(), 0.2))
    model.fit((x[train], y[train]), epochs=12, batch_size=8, seed=0, verbose=0, callbacks=callbacks)
    return model


def accuracy(model):
    return model.evaluate((x[test], y[test]), verbose=0)["val_acc"]


unfreeze = GradualUnfreeze({0: "head", 2: "features"})
plain = fitted(unfreeze, GradientNorm())
print(plain.history.frame[["epoch", "train_loss", "grad_norm", "grad_norm_max"]].round(3))
print(f"last weights: {accuracy(plain):.4f}")
averaged = fitted(unfreeze, SWA(start=0.5, data=(x[train], y[train])))
print(f"mean of the last 6 epochs: {accuracy(averaged):.4f}")
print(f"exponential mean: {accuracy(fitted(unfreeze, EMA(decay=0.99))):.4f}")
