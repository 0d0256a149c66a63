"""Tell a small ring of points from a larger one around it: 1,000 against 6,000, overlapping.

The objective is a formula, loss plus regularization; each of its terms has columns of its own.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from fitorch import KerasModel
from fitorch.losses import L1, L2, FocalLoss
from fitorch.metrics import AUC


def ring(points, radius):
    r = radius + torch.randn(points, 1)
    theta = 2 * math.pi * torch.rand(points, 1)
    return torch.cat([r * torch.cos(theta), r * torch.sin(theta)], dim=1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 4)
        self.fc2 = nn.Linear(4, 8)
        self.fc3 = nn.Linear(8, 1)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


torch.manual_seed(0)
x = torch.cat([ring(1000, 5.0), ring(6000, 8.0)])
y = torch.cat([torch.ones(1000, 1), torch.zeros(6000, 1)])
train, val = random_split(TensorDataset(x, y), [4900, 2100])

net = Net()
model = KerasModel(
    net,
    loss_fn=FocalLoss(from_logits=True) + 1e-3 * L2() + 1e-3 * L1(),
    metrics_dict={"auc": AUC()},
    optimizer=torch.optim.Adam(net.parameters(), lr=0.01),
)
history = model.fit(
    train_data=DataLoader(train, batch_size=100, shuffle=True, num_workers=2),
    val_data=DataLoader(val, batch_size=100, num_workers=2),
    epochs=20,
    patience=5,
    monitor="val_auc",
    ckpt_path="runs/ring",
    plot=True,
)
print(history[["epoch", "val_loss", "val_focal", "val_l2", "val_l1", "val_auc"]].tail(3))
print(f"val_auc {history['val_auc'].max():.4f}")
