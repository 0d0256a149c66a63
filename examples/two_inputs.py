"""Two inputs by name, two outputs with a loss each: the diabetes of 442 patients."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from fitorch import KerasModel
from fitorch.losses import term

diabetes = load_diabetes()  # 10 measurements of each patient
x, progress = diabetes.data, diabetes.target
progress = (progress - progress.mean()) / progress.std()
person, blood = x[:, :4], x[:, 4:]
targets = {"progress": progress, "severe": (progress > 1).astype("float32")}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.person, self.blood = nn.Linear(4, 16), nn.Linear(6, 16)
        self.progress, self.severe = nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, person, blood):
        hidden = torch.relu(torch.cat([self.person(person), self.blood(blood)], dim=1))
        return {
            "progress": self.progress(hidden).squeeze(1),
            "severe": self.severe(hidden).squeeze(1),
        }


def severe_accuracy(y_pred, y_true):
    return ((y_pred["severe"] > 0) == (y_true["severe"] > 0.5)).float().mean()


torch.manual_seed(0)
model = KerasModel(
    Net(),
    {"progress": nn.MSELoss(), "severe": 0.5 * term(nn.BCEWithLogitsLoss())},
    {"severe_acc": severe_accuracy},
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
)
# A dict of features goes to the net by name: net(person=..., blood=...)
data = ({"person": person, "blood": blood}, targets)
history = model.fit(data, validation_split=0.25, epochs=30, patience=5, seed=0)
outputs = model.predict({"person": person, "blood": blood})
print({name: tuple(output.shape) for name, output in outputs.items()})
print(history[["epoch", "val_loss", "val_progress", "val_severe"]].tail(3))
print(f"severe_acc {history['val_severe_acc'].max():.4f}")
