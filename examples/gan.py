"""A step of our own: a GAN, two nets against each other, each with an optimizer of its own."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader

from fitorch import KerasModel


class GAN(KerasModel):
    class StepRunner:
        """Called with a batch, it does all of a step. fit makes one for each epoch."""

        def __init__(self, net, optimizer, judge_optimizer, **given):
            self.maker, self.judge = net["maker"], net["judge"]
            self.optimizer, self.judge_optimizer = optimizer, judge_optimizer
            self.accelerator = given["accelerator"]

        def __call__(self, real):
            made = self.maker(torch.randn(len(real), 4, device=real.device))
            told_apart = softplus(-self.judge(real)) + softplus(self.judge(made.detach()))
            self.update(self.judge_optimizer, told_apart.mean())
            loss = softplus(-self.judge(made)).mean()
            self.update(self.optimizer, loss)
            return {"train_loss": loss.item(), "train_judge": told_apart.mean().item()}, {}

        def update(self, optimizer, loss):
            optimizer.zero_grad()
            self.accelerator.backward(loss)
            optimizer.step()


def mlp(inputs, outputs):
    hidden = nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)
    return nn.Sequential(nn.Linear(inputs, 64), *hidden, nn.Linear(64, outputs))


torch.manual_seed(0)
x = nn.functional.normalize(torch.randn(4000, 2)) * (1 + 0.1 * torch.randn(4000, 1))  # a ring
net = nn.ModuleDict({"maker": mlp(4, 2), "judge": mlp(2, 1)})
maker = torch.optim.Adam(net["maker"].parameters(), 1e-3, (0.0, 0.99))
judge = torch.optim.Adam(net["judge"].parameters(), 3e-3, (0.0, 0.99))
model = GAN(net, optimizer=maker, judge_optimizer=judge)
model.fit(DataLoader(x, batch_size=100, shuffle=True), epochs=20, seed=0)

made = net.cpu()["maker"](torch.randn(1000, 4)).detach()
figure = Figure(figsize=(5, 5), dpi=150, layout="constrained")
figure.add_subplot(aspect="equal").plot(*x[:1000].T, "x", *made.T, ".", markersize=3)
figure.legend(["real", "made"], loc="center")
Path("runs/gan").mkdir(parents=True, exist_ok=True)
figure.savefig("runs/gan/ring.png")
near = torch.cdist(made, x) < 0.2
share = min(near.any(0).double().mean(), near.any(1).double().mean())
print(f"made points near the ring, and parts of the ring near made points: {share:.3f}")
