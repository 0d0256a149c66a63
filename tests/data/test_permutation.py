"""Orders that are computed: permutations, alike in slices, even, and without memory."""

from collections import Counter
from itertools import permutations

import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fitorch import KerasModel
from fitorch.data.permutation import Permutation, Sequence
from fitorch.data.sampling import Order


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 4097, 100_003])
def test_each_number_occurs_once(count):
    assert sorted(Permutation(count, 7)[:].tolist()) == list(range(count))


def test_slices_are_those_of_the_whole():
    order = Permutation(5000, 3)
    whole = order[:]
    for begin, end in ((0, 10), (4990, 6000), (700, 701), (50, 40)):
        assert torch.equal(order[begin:end], whole[begin:end])
        assert torch.equal(Sequence(5000)[begin:end], torch.arange(5000)[begin:end])


def test_orders_of_four_are_drawn_evenly():
    drawn = Counter(tuple(Permutation(4, seed)[:].tolist()) for seed in range(6000))
    assert drawn.keys() == set(permutations(range(4)))
    expected = 6000 / 24
    # The chi-squared statistic of 23 degrees of freedom exceeds 49.7 once in 1000 tests.
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 49.7


def test_neighbours_are_not_neighbours_any_more():
    order = Permutation(100_000, 5)[:].double()
    for shifted in (torch.arange(100_000.0), order.roll(1), order.roll(2)):
        assert abs(torch.corrcoef(torch.stack([order, shifted.double()]))[0, 1]) < 0.02


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_billion_samples_take_no_memory(shuffle):
    class Billion(Dataset):
        def __len__(self):
            return 10**9

        def __getitem__(self, index):
            return torch.tensor([index / 1e9]), torch.zeros(1)

    model = KerasModel(nn.Linear(1, 1), "mse")
    model.fit((torch.ones(4, 1), torch.ones(4, 1)), epochs=1, verbose=0)
    process = psutil.Process()
    before = process.memory_info().vms
    model.fit(Billion(), epochs=1, steps_per_epoch=3, shuffle=shuffle, verbose=0, num_workers=0)
    # An order in memory would take 8 GB.
    assert process.memory_info().vms - before < 1e9


def test_processes_share_the_samples_of_a_large_pass():
    alone = Order(10**9, 8, True, seed=1)
    ranks = [Order(10**9, 4, True, seed=1, rank=rank, world=2) for rank in (0, 1)]
    start = 10**8  # batches
    whole = next(alone.batches(0, start))
    parts = [next(rank.batches(0, start)) for rank in ranks]
    assert torch.equal(torch.cat(parts), whole)
