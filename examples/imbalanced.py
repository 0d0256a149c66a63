"""Breast cancer from a DataFrame: classes weighted, the area under the ROC curve watched."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback

frame = load_breast_cancer(as_frame=True).frame
y = (frame.pop("target") == 0).astype("float32").to_frame()  # 1 is malignant: 212 of 569
x_train, x_val, y_train, y_val = train_test_split(
    frame, y, test_size=0.3, stratify=y, random_state=0
)


class Gap(Callback):
    """Tell each fifth epoch how far training is ahead of validation."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1}: ahead by {logs['val_loss'] - logs['train_loss']:+.3f}")


torch.manual_seed(0)
net = nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))
model = KerasModel(
    net,
    nn.BCEWithLogitsLoss(),
    {"acc": "acc", "auc": "auc"},
    torch.optim.AdamW(net.parameters(), 3e-3),
)
model.fit(
    (x_train, y_train),
    (x_val, y_val),
    epochs=40,
    patience=10,
    monitor="val_loss",
    class_weight={0: 1.0, 1: 2.0},  # a tumour that is missed costs twice
    callbacks=[Gap()],
)

probability = torch.sigmoid(model.predict(x_val)).flatten()
print(f"most suspicious: {probability.max():.3f}")
print(f"val_auc {model.evaluate((x_val, y_val), verbose=0)['val_auc']:.4f}")
