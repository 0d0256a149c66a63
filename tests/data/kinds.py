"""Data of every kind, and the fit that trains on it."""

from collections import namedtuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fitorch import KerasModel

N, SIZE = 22, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR)
Y = torch.randn(N, 1, generator=GENERATOR)
W = torch.rand(N, generator=GENERATOR)


class Samples(Dataset):
    """A map-style dataset; what it gives is computed from (x, y)."""

    def __init__(self, columns=(X, Y), wrap=tuple):
        self.columns, self.wrap = columns, wrap

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        return self.wrap(column[index] for column in self.columns)


class Fetching(Samples):
    """A dataset that fetches the samples of a batch at once."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Stream(IterableDataset):
    def __init__(self, columns=(X, Y), count=N):
        self.columns, self.count = columns, count

    def __iter__(self):
        for index in range(self.count):
            yield tuple(column[index] for column in self.columns)


class Sized(Stream):
    def __len__(self):
        return N


class Lengthless:
    """A loader without a length."""

    def __iter__(self):
        return batches()


class Short(Lengthless):
    """A loader that gives fewer batches than it says."""

    def __len__(self):
        return 1000


class Unimplemented(Lengthless):
    """A loader whose length is not implemented."""

    def __len__(self):
        raise NotImplementedError


class Named(nn.Module):
    """A net that takes its features by name, and gives what loss_fn=None needs."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x=None, labels=None):
        return self.net(x)


def batches(columns=(X, Y)):
    return zip(*(column.split(SIZE) for column in columns), strict=True)


def as_numpy(columns=(X, Y)):
    return [tuple(part.double().numpy() for part in batch) for batch in batches(columns)]


def collate(samples):
    return torch.utils.data.default_collate(samples)


Batch = namedtuple("Batch", ["x", "y"])
DATA = {
    "tensors": lambda: (X, Y),
    "tensors and None": lambda: (X, Y, None),
    "arrays": lambda: (X.double().numpy(), Y.numpy()),
    "frames": lambda: (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
    "a named tuple": lambda: Batch(X, Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "a loader over tensors": lambda: DataLoader(TensorDataset(X, Y), SIZE),
    "a loader": lambda: DataLoader(Samples(), SIZE, collate_fn=collate),
    "a loader of NumPy samples": lambda: DataLoader(Samples((X.numpy(), Y.numpy())), SIZE),
    "a loader that gives NumPy": lambda: DataLoader(
        Samples((X.double().numpy(), Y.double().numpy())),
        SIZE,
        collate_fn=lambda samples: tuple(map(np.stack, zip(*samples, strict=True))),
    ),
    "a dataset": lambda: Samples(),
    "a dataset of lists": lambda: Samples(wrap=list),
    "a dataset that fetches": lambda: Fetching(),
    "an iterable dataset": lambda: Stream(),
    "an iterable dataset with a length": lambda: Sized(),
    "a loader over an iterable dataset": lambda: DataLoader(Stream(), SIZE),
    "a list of batches": lambda: list(batches()),
    "a list of lists": lambda: [list(batch) for batch in batches()],
    "a list of NumPy batches": lambda: as_numpy(),
    "a list of lists of NumPy": lambda: [list(batch) for batch in as_numpy()],
    "a list of named tuples": lambda: [Batch(*batch) for batch in batches()],
    "an object without a length": lambda: Lengthless(),
    "a loader shorter than it says": lambda: Short(),
    "a length that is not implemented": lambda: Unimplemented(),
}


def start():
    torch.manual_seed(1)
    return nn.Linear(3, 1)


def fit(data, net=None, val_data=None, loss=nn.MSELoss, epochs=2, forward=None, **arguments):
    net = start() if net is None else net
    sgd = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    model = KerasModel(net, loss(), optimizer=sgd, forward=forward)
    settings = {"batch_size": SIZE, "shuffle": False, "verbose": 0, **arguments}
    return net, model.fit(data, val_data, epochs, **settings)
