"""Nets that need something of their own."""

import warnings

import torch
from torch import nn
from torch.utils.data import Dataset

from fitorch import KerasModel
from tolerances import FLOAT32


def images():
    x = torch.randn(26, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return x, (x.mean((1, 2, 3)) > 0).long()


def lazy():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)
    )


def trained(world, make=lazy, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # DistributedDataParallel's of strides too
        warnings.filterwarnings("ignore", message="Lazy modules are a new feature")
        net = make()
        model = KerasModel(net, nn.CrossEntropyLoss(), {"acc": "acc"}, "sgd", **options)
        x, y = images()
        frame = model.fit((x, y), (x, y), 2, batch_size=8 // world, seed=3, verbose=0)
        return {name: value.clone() for name, value in net.state_dict().items()}, frame


def test_a_lazy_net_learns_its_shapes_first(two):
    (first, table), (second, other) = two.run(trained, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert table.equals(other)
    assert first["1.num_batches_tracked"] == 8


def test_images_in_channels_last_memory_train_alike(two):
    expected, _ = trained(1, convolution, channels_last=True)
    for state, _ in two.run(trained, 2, convolution, channels_last=True):
        for name, value in expected.items():
            assert torch.allclose(state[name], value, **FLOAT32), name


def convolution():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


class Noisy(Dataset):
    """Draws random numbers while it is read, and needs several workers."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        x = torch.full((3,), float(index)) + torch.rand(1)
        return x, x.sum(0, keepdim=True)


class Seen(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.rows = []

    def forward(self, x):
        self.rows.append(x[:, 0].tolist())
        return self.layer(x)


def rows(workers):
    net = Seen()
    model = KerasModel(net, "mse")
    model.fit(Noisy(), epochs=1, batch_size=5, seed=3, verbose=0, num_workers=workers)
    return net.rows[1:]  # the first is a warm-up


def test_each_process_draws_random_numbers_of_its_own_whatever_its_workers(two):
    alone, read = two.run(rows, 0), two.run(rows, 2)
    assert alone == read
    samples = [value for each in alone for batch in each for value in batch]
    assert sorted(int(value) for value in samples) == list(range(40))
    noises = [value - int(value) for value in samples]
    assert len({round(noise, 5) for noise in noises}) == 40
