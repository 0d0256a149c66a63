"""A step of our own: a GAN, two nets against each other, each with an optimizer of its own."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader

from fitorch import KerasModel


def mlp(inputs, outputs):
    hidden = nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)
    return nn.Sequential(nn.Linear(inputs, 64), *hidden, nn.Linear(64, outputs))


def step(model, real):
    maker, judge = model.net["maker"], model.net["judge"]
    made = maker(torch.randn(len(real), 4, device=real.device))
    judged = (softplus(-judge(real)) + softplus(judge(made.detach()))).mean()
    model.backward(judged)
    model.update("judge")
    loss = softplus(-judge(made)).mean()
    model.backward(loss)
    model.update("maker")
    return {"loss": loss, "judge": judged}


torch.manual_seed(0)
x = nn.functional.normalize(torch.randn(4000, 2)) * (1 + 0.1 * torch.randn(4000, 1))  # a ring
net = nn.ModuleDict({"maker": mlp(4, 2), "judge": mlp(2, 1)})
maker = torch.optim.Adam(net["maker"].parameters(), 1e-3, (0.0, 0.99))
judge = torch.optim.Adam(net["judge"].parameters(), 3e-3, (0.0, 0.99))
model = KerasModel(net, step=step, optimizer={"maker": maker, "judge": judge})
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
