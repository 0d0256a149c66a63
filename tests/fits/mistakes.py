"""Data, a net and losses, some of them bad, and the text of an error."""

import torch
from torch import nn

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1, keepdim=True) > 0).float()
CLASSES = torch.arange(64) % 3


def mlp(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))


def squares(y_pred, y_true):
    return ((y_pred - y_true) ** 2).mean()


def unreduced(y_pred, y_true):
    return (y_pred - y_true).square()


def detached(y_pred, y_true):
    return squares(y_pred, y_true).detach()


def one_hot(dtype):
    return nn.functional.one_hot(CLASSES, 3).to(dtype)


def text_of(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])
