"""Which learning rate? Try a hundred, a batch each, on a copy of the net; then train with it."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from fitorch import KerasModel

digits = load_digits()
x_train, x_test, y_train, y_test = train_test_split(
    digits.data / 16, digits.target, test_size=0.3, stratify=digits.target, random_state=0
)


def make_model(lr):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    return KerasModel(net, "cross_entropy", {"acc": "acc"}, optimizer)


def accuracy(lr):
    model = make_model(lr)
    model.fit((x_train, y_train), epochs=5, seed=0, verbose=0)
    return model.evaluate((x_test, y_test), verbose=0)["val_acc"]


tried = make_model(lr=1e-3).find_lr((x_train, y_train), seed=0, plot="runs/find_lr/rates.png")
print(tried[::10].round(4).to_string(index=False))
found = tried.attrs["suggestion"]
for lr in (found / 100, found * 100):
    print(f"learning rate {lr:.2g}: test accuracy {accuracy(lr):.4f}")
print(f"learning rate {found:.2g}, as suggested: test accuracy {accuracy(found):.4f}")
