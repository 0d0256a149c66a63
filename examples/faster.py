"""Train the digits net with whole steps compiled, and images in channels-last memory.

Compiling takes seconds and pays where a step is short or training long; weights are those of the
plain loop, but for rounding.
"""

from time import perf_counter

import torch
from sklearn.datasets import load_digits
from torch import nn

from fitorch import KerasModel

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
y = torch.tensor(digits.target)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def fit(**options):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    model = KerasModel(
        net, "cross_entropy", {"acc": "acc"}, lambda p: torch.optim.Adam(p, 3e-3), **options
    )
    model.fit((x[train], y[train]), epochs=1, seed=0)  # compiles, where that is asked for
    began = perf_counter()
    model.fit((x[train], y[train]), epochs=10, seed=1, verbose=0)
    return model, perf_counter() - began


plain, seconds = fit()
faster, less = fit(jit_compile=True, channels_last=True)
print(f"10 epochs took {less / seconds:.2f} of the time")
print(f"test accuracy {faster.evaluate((x[test], y[test]), verbose=0)['val_acc']:.4f}")
