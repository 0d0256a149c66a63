"""A loss with parameters of its own: digits drawn to a center for each class, which is learned."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from fitorch import KerasModel
from fitorch.losses import L2, term


class CenterLoss(nn.Module):
    """Half the squared distance of features (N, D) to the center of their class, per sample."""

    def __init__(self, classes, features):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(classes, features))

    def forward(self, features, y_true):
        return 0.5 * (features - self.centers[y_true]).square().sum(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        features = self.body(x)
        return {"digit": self.head(features), "features": features}


def digit_accuracy(y_pred, y_true):
    return (y_pred["digit"].argmax(1) == y_true["digit"]).float().mean()


digits = load_digits()
x, y = digits.data / 16, digits.target
torch.manual_seed(0)
centers = CenterLoss(10, 8)
# A loss for each output, weighted and named; centers is optimized, moved and saved with the net.
losses = {"digit": nn.CrossEntropyLoss(), "features": 0.05 * term(centers, per_sample=True)}
model = KerasModel(Net(), losses + 1e-4 * L2(), {"digit_acc": digit_accuracy}, "adam")
history = model.fit(
    (x, {"digit": y, "features": y}),
    validation_split=0.2,
    epochs=40,
    patience=8,
    monitor="val_digit_acc",
    mode="max",
    seed=0,
)
features = model.predict(x)["features"]
spread = (features - centers.centers[y]).norm(dim=1).mean().item()
apart = torch.pdist(centers.centers).mean().item()
print(f"digits lie {spread:.2f} from their center, centers {apart:.2f} from each other")
print(f"digit_acc {history['val_digit_acc'].max():.4f}")
