"""Optimizers: AdamW by name, Muon for matrices beside AdamW, SAM, and L-BFGS, on scanned digits."""

import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

from fitorch import KerasModel

x, y = load_digits(return_X_y=True)
train, test = (x[:1400] / 16, y[:1400]), (x[1400:] / 16, y[1400:])


class SAM(torch.optim.SGD):
    """Foret et al., 2021: descends by the gradient where the loss is worst nearby."""

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "SAM evaluates the loss twice"
        weights = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in weights]).norm()
        moves = [0.05 * p.grad / norm for p in weights]
        for p, move in zip(weights, moves, strict=True):
            p += move
        closure()  # the gradients there
        for p, move in zip(weights, moves, strict=True):
            p -= move
        super().step()


def muon_and_adamw(parameters):
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.003)]


optimizers = {
    "AdamW": ("AdamW", 64),
    "Muon and AdamW": (muon_and_adamw, 64),
    "SAM": (lambda p: SAM(p, lr=0.2, momentum=0.9), 64),
    "L-BFGS": ("LBFGS", 1400),  # all samples in each update
}
rows = {}
for name, (optimizer, batch_size) in optimizers.items():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    model = KerasModel(net, "cross_entropy", {"acc": "acc"}, optimizer)
    history = model.fit(train, test, epochs=30, batch_size=batch_size, seed=0, verbose=0)
    best = history.loc[history["val_acc"].idxmax()]
    rows[name] = {"best epoch": int(best["epoch"]), "val_acc": best["val_acc"]}
print(pd.DataFrame(rows).T.to_string())
print(f"the least of the best accuracies: {min(row['val_acc'] for row in rows.values()):.3f}")
