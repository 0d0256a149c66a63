import gc
from itertools import zip_longest

import pytest
import torch

from fitorch.data.sampling import Order, split


def batches(order, pass_index=0, start=0):
    return [index.tolist() for index in order.batches(pass_index, start)]


def flat(lists):
    return [number for numbers in lists for number in numbers]


SIZES = pytest.mark.parametrize(("samples", "size"), [(10, 3), (12, 4), (1, 5), (7, 7), (5000, 2)])
SHUFFLES = pytest.mark.parametrize("shuffle", [False, True])


@SIZES
@SHUFFLES
def test_sees_each_sample_once_per_pass(samples, size, shuffle):
    seen = batches(Order(samples, size, shuffle, seed=3))
    assert sorted(flat(seen)) == list(range(samples))


@SIZES
@SHUFFLES
def test_makes_batches_as_torch_makes_them_of_the_same_numbers(samples, size, shuffle):
    order = Order(samples, size, shuffle, seed=3)
    chunks = torch.as_tensor(flat(batches(order))).split(size)
    assert batches(order) == [chunk.tolist() for chunk in chunks]
    assert len(order) == len(chunks)
    assert order.smallest_batch == min(map(len, chunks))


def test_keeps_the_order_of_the_samples_unless_it_shuffles():
    assert flat(batches(Order(10, 3, shuffle=False, seed=0), pass_index=4)) == list(range(10))


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("world", [1, 2, 3])
def test_begins_in_the_middle_as_if_it_had_come_from_the_beginning(start, world):
    order = Order(23, 2, shuffle=True, seed=5, rank=world - 1, world=world)
    assert batches(order, 2, start) == batches(order, 2)[start:]


def test_begins_in_the_middle_of_many_batches():
    order = Order(6001, 2, shuffle=True, seed=5)
    for start in (1, 1023, 1024, 1025, 3000, 3001):
        assert batches(order, 0, start) == batches(order)[start:]


def test_is_a_function_of_seed_and_pass_alone():
    first = batches(Order(50, 8, shuffle=True, seed=1), 3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = Order(50, 8, shuffle=True, seed=1)
    for other in (0, 7):
        batches(again, other)
    assert batches(again, 3) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_shuffles_differently_in_each_pass_and_for_each_seed():
    orders = [batches(Order(50, 8, shuffle=True, seed=s), p) for s in (0, 1) for p in (0, 1)]
    assert len({str(order) for order in orders}) == 4


@SHUFFLES
@pytest.mark.parametrize(("world", "size"), [(2, 6), (3, 4), (4, 3)])
@pytest.mark.parametrize("samples", [24, 25, 35, 3])
def test_shows_n_processes_together_what_one_process_sees(samples, world, size, shuffle):
    alone = batches(Order(samples, size * world, shuffle, seed=7))
    ranks = [batches(Order(samples, size, shuffle, 7, rank, world)) for rank in range(world)]
    together = [flat(parts) for parts in zip_longest(*ranks, fillvalue=[])]
    assert together == alone
    assert all(part for rank in ranks for part in rank)


def test_gives_each_process_nearly_as_much_as_the_others():
    ranks = [batches(Order(25, 4, True, 7, rank, 3)) for rank in range(3)]
    for parts in zip_longest(*ranks, fillvalue=[]):
        sizes = list(map(len, parts))
        assert max(sizes) - min(sizes) <= 1


def test_cuts_pieces_as_they_are_needed():
    pieces = split(torch.arange(100_000), 1)
    next(pieces)
    assert sum(type(thing) is torch.Tensor for thing in gc.get_objects()) < 10_000


@pytest.mark.parametrize("start", [0, 2, 3, 9])
def test_gives_no_piece_beyond_the_end(start):
    assert len(list(split(torch.arange(9), 4, start))) == max(0, 3 - start)
