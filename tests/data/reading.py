"""A dataset that is read sample by sample, and the fit that trains on it."""

import torch
from torch import nn
from torch.utils.data import Dataset

from fitorch import KerasModel

N = 22
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR)
Y = torch.randn(N, 1, generator=GENERATOR)


class Samples(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], Y[index]


def start():
    torch.manual_seed(1)
    return nn.Linear(3, 1)


def fit(data, num_workers="auto", net=None, **arguments):
    net = start() if net is None else net
    model = KerasModel(net, "mse", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    settings = {"epochs": 2, "batch_size": 4, "seed": 5, "verbose": 0, **arguments}
    frame = model.fit(data, num_workers=num_workers, **settings)
    return model, frame.drop(columns="seconds")
