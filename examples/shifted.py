"""Several validation sets by name: digits as they are, and the same digits with noise."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel
from fitorch.metrics import whole_epoch

digits = load_digits()
x_train, x_val, y_train, y_val = train_test_split(
    digits.data / 16, digits.target, test_size=0.3, stratify=digits.target, random_state=0
)
torch.manual_seed(0)
noisy = x_val + 0.4 * torch.randn(x_val.shape).numpy()


def one_against_rest(y_pred, y_true):
    return roc_auc_score(y_true, y_pred.double().softmax(1), multi_class="ovr")


net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
model = KerasModel(
    net,
    nn.CrossEntropyLoss(),
    {"acc": "acc", "f1": "f1", "ovr": whole_epoch(one_against_rest)},
    torch.optim.Adam(net.parameters(), 3e-3),
)
history = model.fit(
    (x_train, y_train),
    {"clean": (x_val, y_val), "noisy": (noisy, y_val)},
    epochs=25,
    patience=5,
    monitor="val_noisy_f1",  # the best epoch is the one that stands noise best
    train_metrics=False,
    seed=0,
)
print(history[["epoch", "val_clean_acc", "val_noisy_acc", "val_noisy_ovr"]].tail(3))
print(f"noisy acc {history['val_noisy_acc'].max():.4f}")
print(f"clean acc {history['val_clean_acc'].max():.4f}")
