"""Nets, and ways to read a table of layers."""

import torch
from torch import nn

from fitorch import flop_summary, summary


def quiet(net, *args, **kwargs):
    return summary(net, *args, verbose=0, **kwargs)


def cells(table, name):
    """Return shapes, parameters and note of the row of a layer."""
    (row,) = [row for row in table.rows if row.name == name]
    return list(row.cells[0]), row.cells[1][0], row.note


def count(net):
    return sum(parameter.numel() for parameter in set(net.parameters()))


class Circle(nn.Module):
    """The net of torchkeras' readme."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 4)
        self.fc2 = nn.Linear(4, 8)
        self.fc3 = nn.Linear(8, 1)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Returns(nn.Module):
    """Gives what `make` makes of a linear layer's output."""

    def __init__(self, make):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.make = make

    def forward(self, x):
        return self.make(self.linear(x))


def flops(net, *args, **kwargs):
    return flop_summary(net, *args, verbose=0, **kwargs)
