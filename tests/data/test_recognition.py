"""Items that may be samples or batches are taken for one of them, and a warning says which."""

import warnings
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from data.libraries import SIZE, N, X, Y, assert_trains_as, fit, pairs
from fitorch.data.recognition import looks_like_batch, looks_like_samples, may_be_batch
from fitorch.errors import DataError

SAMPLES = pytest.warns(UserWarning, match="are taken for samples.*batch_size=None.*DataLoader")
BATCHES = pytest.warns(UserWarning, match="are taken for batches.*DataLoader.*batch_size=None")
EQUAL = pairs()[:-1]  # batches of equal size


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Plain:
    """An object that is not a Dataset."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Mapped(Plain, Dataset):
    """A Dataset."""


def quiet(data, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(data, **arguments)


# Forms


@pytest.mark.parametrize(
    ("item", "may_be", "is_taken"),
    [
        ((X[:8], Y[:8]), True, True),
        ((X[:2], Y[:2]), True, True),
        ((X[:8], Y[:8, 0]), True, True),
        ({"x": X[:8], "labels": Y[:8]}, True, True),
        ({"x": X[:8].tolist(), "labels": Y[:8].tolist(), "text": ["a"] * 8}, True, True),
        ((X[:8], Y[:8], Y[:8, 0]), True, True),
        (((X[:8], X[:8]), Y[:8]), True, True),
        (([1, 2, 3], [0, 1, 0]), True, False),  # tokens with labels
        ((X[0], X[0]), True, False),
        ((torch.rand(3, 8, 8), torch.rand(3, 16, 16)), True, False),  # images
        ((torch.rand(4, 3, 8, 8), torch.rand(4)), True, True),
        ((torch.rand(1, 8, 8), torch.rand(1, 8, 8)), False, False),
        ((X[0], Y[0]), False, False),
        ((X[:8], 1.0), False, False),
        ((X[:8], "a text"), False, False),
        (("a text", "another"), False, False),
        ({"x": X[:8], "text": "a text", "labels": Y[:8]}, False, False),
        ((X[:8], np.str_("a text")), False, False),
        ({"x": X[:8]}, False, True),
        (X[:8], False, False),
        ((), False, False),
    ],
)
def test_what_an_item_may_be_and_what_it_is_taken_for(item, may_be, is_taken):
    assert (may_be_batch(item), looks_like_batch(item)) == (may_be, is_taken)


# Streams


@pytest.mark.parametrize("size", [2, 4])
def test_a_stream_of_small_batches_is_not_batched_again(size):
    batches = pairs(size=size)
    with BATCHES:
        assert_trains_as([batches] * 2, Stream(batches))


class Rates(nn.Module):
    """Predicts a rating of a user for an item, from numbers of shape (N,)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.users, self.shapes = nn.Embedding(5, 1), []

    def forward(self, user):
        if self.training:
            self.shapes.append(tuple(user.shape))
        return self.users(user).squeeze(-1)


USERS, RATINGS = torch.arange(N) % 5, Y[:, 0]
RATED = {
    "tuples": list(zip(USERS.split(SIZE), RATINGS.split(SIZE), strict=True)),
    "mappings": [
        {"user": user, "labels": rating}
        for user, rating in zip(USERS.split(SIZE), RATINGS.split(SIZE), strict=True)
    ],
}


@pytest.mark.parametrize("items", RATED.values(), ids=RATED)
def test_a_stream_of_numbers_says_that_it_is_taken_for_samples(items):
    with SAMPLES:
        fit(Stream(items[:4]), net=Rates())
    assert_trains_as([RATED["tuples"]] * 2, Stream(items), Rates, batch_size=None)


def test_a_stream_of_images_says_that_it_is_taken_for_samples():
    image = torch.rand(3, 3, 3)
    with SAMPLES:
        model, _ = fit(Stream([(image, image[..., :1])] * 8))
    assert model.net.shapes == [(4, 3, 3, 3)] * 4


# Datasets and other objects with a length


@pytest.mark.parametrize("kind", [Mapped, Plain])
def test_items_that_look_like_batches_are_said_to_be_samples(kind):
    with SAMPLES:
        model, _ = fit(kind(EQUAL))
    assert model.net.shapes == [(4, 4, 3), (1, 4, 3)] * 2
    assert_trains_as([EQUAL] * 2, kind(EQUAL), batch_size=None)


def test_workers_say_it_too():
    with SAMPLES:
        fit(Mapped(EQUAL), num_workers=1)


def test_a_short_last_batch_of_a_dataset_is_an_error_that_names_the_cure():
    with pytest.raises(RuntimeError, match="stack expects") as caught:
        fit(Mapped(pairs()), batch_size=8)
    assert "if they are batches, pass batch_size=None" in str(caught.value.__notes__)


@pytest.mark.parametrize("kind", [Mapped, Plain, Stream, list])
def test_nothing_is_said_where_items_are_samples(kind):
    quiet(kind([(X[i], Y[i]) for i in range(N)]))
    quiet(DataLoader(Mapped([(X[i], X[i, :1].expand(3)) for i in range(N)]), SIZE), net=Same())


class Same(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)


# Lists


@pytest.mark.parametrize("kind", [list, deque])
def test_a_list_of_batches_with_a_short_last_one_is_read_quietly(kind):
    assert_trains_as([pairs()] * 2, kind(pairs()))


@pytest.mark.parametrize("kind", [list, deque])
def test_a_list_of_equal_items_says_that_it_holds_batches(kind):
    with BATCHES:
        assert_trains_as([EQUAL] * 2, kind(EQUAL))
    assert_trains_as([EQUAL] * 2, kind(EQUAL), batch_size=None)


SEQUENCES = {
    "autoencoder": ([(x, x) for x in X], Same),
    "tagging": ([(X[i : i + 3], Y[i : i + 3]) for i in range(8)], None),
    "of different lengths": ([(X[: 2 + i % 3], Y[: 2 + i % 3]) for i in range(9)], None),
}


@pytest.mark.parametrize(("samples", "net"), SEQUENCES.values(), ids=SEQUENCES)
def test_a_list_of_samples_like_batches_is_said_to_hold_batches(samples, net):
    with BATCHES:
        fit(samples, net=net and net())


def test_a_deque_of_samples_is_batched():
    assert looks_like_samples(deque(zip(X, Y, strict=True)))
    assert_trains_as([pairs()] * 2, deque(zip(X, Y, strict=True)))


# Lists of numbers, and samples in other forms


def test_lists_of_numbers_in_ready_batches_become_tensors():
    lists = [(x.tolist(), y.tolist()) for x, y in pairs()]
    assert_trains_as([pairs()] * 2, lists)
    assert_trains_as([pairs()] * 2, Stream(lists), batch_size=None)
    assert_trains_as([pairs()] * 2, Mapped(lists), batch_size=None)
    mappings = [{"x": x, "labels": y} for x, y in lists]
    assert_trains_as([pairs()] * 2, mappings)


def test_lists_of_different_lengths_in_a_ready_batch_stay_lists():
    def padded(net, batch):
        x = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch[0]], batch_first=True)
        return net(x), batch[1]

    ragged = [([[1.0, 2.0, 3.0], [4.0]], Y[:2])]
    expected = [(torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), Y[:2])]
    assert_trains_as([expected], ragged, forward=padded, hand=lambda net, b: (net(b[0]), b[1]))


ARRAYS = {
    "another byte order": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "reversed": lambda a: a[::-1].copy()[::-1],
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("kind", [Mapped, Stream])
def test_samples_of_arrays_that_torch_refuses_are_converted(change, kind):
    samples = [(change(x.numpy()), change(y.double().numpy())) for x, y in zip(X, Y, strict=True)]
    assert_trains_as([pairs()] * 2, kind(samples))
    nested = [({"x": x}, y) for x, y in samples]
    assert_trains_as([pairs()] * 2, kind(nested))


def test_a_sample_that_is_none_is_an_error():
    samples = [(X[i], Y[i]) if i != 5 else None for i in range(N)]
    with pytest.raises(DataError, match=r"a sample is None; expected \(features, targets\)"):
        fit(Mapped(samples))
