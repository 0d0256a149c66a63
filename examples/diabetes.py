"""Regression: how far diabetes has come after a year, from ten measurements of 442 patients."""

import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel
from fitorch.losses import L2

x, y = load_diabetes(return_X_y=True)  # y: 25 to 346
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
center, scale = y_train.mean(), y_train.std()


class Net(nn.Module):
    """A net that answers in the units of y: (N,), as the targets are."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(10), nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0)
        )

    def forward(self, x):
        return center + scale * self.layers(x)


torch.manual_seed(0)
net = Net()
model = KerasModel(
    net,
    nn.HuberLoss(delta=20.0) + 1.0 * L2(),
    {"mae": "mae", "r2": "r2"},
    torch.optim.Adam(net.parameters(), lr=5e-3),
)
history = model.fit(
    (x_train, y_train),
    validation_split=0.2,
    epochs=40,
    patience=10,
    monitor="val_mae",
    seed=0,
    plot="runs/diabetes/history.png",
)
model.plot_residuals((x_test, y_test), path="runs/diabetes/residuals.png")

scores = model.evaluate((x_test, y_test), verbose=0)
guess = abs(y_test - y_train.mean()).mean()
print(f"mean error {scores['val_mae']:.1f}; whoever guesses the mean errs by {guess:.1f}")
print(f"test R2 {scores['val_r2']:.3f}")
