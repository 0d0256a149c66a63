"""Nets, and comparisons of weights, that tests of averaged weights share."""

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import (
    Callback,
)

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
LOADER = DataLoader(TensorDataset(X, Y), batch_size=8)  # 4 batches, in order


def make_net(middle=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), middle or nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def make_model(net=None, lr=0.1, **options):
    net = net or make_net()
    return KerasModel(net, "mse", optimizer=optim.SGD(net.parameters(), lr, 0.9), **options)


def train(model, callbacks, data=LOADER, val=None, epochs=3, **options):
    options = {"verbose": 0, "seed": 0, "cpu": True, **options}
    return model.fit(data, val, epochs=epochs, callbacks=callbacks, **options)


def weights(net):
    """What is averaged, copied."""
    return {n: t.clone() for n, t in net.state_dict().items() if t.is_floating_point()}


def assert_weights(net, expected, **tolerance):
    expected = weights(expected) if isinstance(expected, nn.Module) else expected
    for name, value in weights(net).items():
        if tolerance:
            torch.testing.assert_close(value, expected[name], **tolerance)
        else:
            assert torch.equal(value, expected[name]), name


def is_same(first, second):
    first, second = weights(first), second if isinstance(second, dict) else weights(second)
    return all(torch.equal(first[name], second[name]) for name in first)


class Look(Callback):
    """Copies the weights at an event."""

    def __init__(self, *events):
        self.seen = {}
        for event in events:
            setattr(self, event, self.looking(event))

    def looking(self, event):
        return lambda *_: self.seen.setdefault(event, []).append(weights(self.model.net))


class Fails(Callback):
    def __init__(self, event, after=0):
        self.left = after
        setattr(self, event, self.fail)

    def fail(self, *_):
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError
