"""Scanned digits, two labels in five wrong: the symmetric cross entropy doubts them."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel
from fitorch.losses import L2, SCELoss

digits = load_digits()
x_train, x_test, y_train, y_test = train_test_split(
    digits.data / 16, digits.target, test_size=0.3, stratify=digits.target, random_state=0
)
torch.manual_seed(0)
y_noisy = torch.tensor(y_train)
wrong = torch.rand(len(y_noisy)) < 0.4
y_noisy[wrong] = torch.randint(10, (int(wrong.sum()),))


def accuracy(loss_fn):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = KerasModel(net, loss_fn, {"acc": "acc"}, torch.optim.Adam(net.parameters(), 3e-3))
    model.fit((x_train, y_noisy), epochs=60, seed=0, verbose=0)
    return model.evaluate((x_test, y_test), verbose=0)["val_acc"]


plain = accuracy(nn.CrossEntropyLoss())
symmetric = accuracy(SCELoss(a=0.1, b=1.0) + 1e-3 * L2())
print(f"cross entropy: {plain:.4f} of the test digits are right")
print(f"symmetric cross entropy and L2: {symmetric:.4f}")
