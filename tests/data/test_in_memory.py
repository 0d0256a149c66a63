import multiprocessing
import random

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from fitorch import KerasModel
from fitorch.data.in_memory import MemorySource, dataset_source, ordered_source, recognize
from fitorch.data.loader import LoaderSource
from fitorch.data.sampling import Order
from fitorch.data.sources import Batching, as_source

SAMPLES = 23


def dataset(samples=SAMPLES):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(samples, 3, generator=generator),
        torch.arange(samples),
        torch.rand(samples, 2, 2, generator=generator, dtype=torch.float64) > 0.5,
    )


class Lazy(Sampler):
    """Draws each number from torch's global generator when it is asked for it."""

    def __init__(self, samples, wrap=int):
        self.samples, self.wrap = samples, wrap

    def __iter__(self):
        for _ in range(self.samples):
            yield self.wrap(torch.randint(self.samples, ()).item())

    def __len__(self):
        return self.samples


class Eager(Lazy):
    """Draws all numbers as soon as an iterator is made."""

    def __iter__(self):
        return iter([self.wrap(number) for number in torch.randperm(self.samples).tolist()])


class Endless(Lazy):
    """Has no length."""

    __len__ = None

    def __iter__(self):
        return iter([-1, 0, -5, 3])


class Batches:
    """A batch sampler of one's own: draws early, gives what it was told to."""

    def __init__(self, samples, kind=list):
        self.samples, self.kind = samples, kind

    def __iter__(self):
        order = torch.randperm(self.samples)
        return iter([self.kind(order[:5].tolist()), self.kind(order[5:6].tolist())])

    def __len__(self):
        return 2


def read_only(numbers):
    array = np.array(numbers, dtype=np.int32)
    array.setflags(write=False)
    return array


DATASETS = {
    "tensors": dataset,
    "one tensor": lambda: TensorDataset(torch.randn(9, 2, generator=torch.Generator())),
    "subset": lambda: Subset(dataset(), [4, 1, 1, 20, -1, 7, 8]),
    "subset of a range": lambda: Subset(dataset(), range(3, 20, 2)),
    "subset of an array": lambda: Subset(dataset(), read_only([5, 3, 22])),
    "subset of a tensor": lambda: Subset(dataset(), torch.tensor([5, 3, 22])),
    "nested subset": lambda: Subset(Subset(dataset(), [9, 8, 7, 6, 5, -1]), [0, 5, 2, -2]),
    "random split": lambda: random_split(dataset(), [15, 8], torch.Generator().manual_seed(4))[0],
    "channels last": lambda: TensorDataset(
        torch.randn(9, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    ),
}
LOADERS = {
    "in order": {"batch_size": 4},
    "one by one": {},
    "shuffled": {"batch_size": 4, "shuffle": True},
    "drop_last": {"batch_size": 4, "shuffle": True, "drop_last": True},
    "in order, drop_last": {"batch_size": 4, "drop_last": True},
    "batch larger than data": {"batch_size": 99, "shuffle": True},
}
SAMPLERS = {
    "with replacement": lambda d: {"sampler": RandomSampler(d, replacement=True)},
    "with many samples": lambda d: {"sampler": RandomSampler(d, num_samples=2 * len(d) + 3)},
    "with few samples": lambda d: {"sampler": RandomSampler(d, num_samples=3)},
    "of its own generator": lambda d: {
        "sampler": RandomSampler(d, generator=torch.Generator().manual_seed(8))
    },
    "of a subset": lambda d: {"sampler": SubsetRandomSampler([1, 0, 2, 4])},
    "weighted": lambda d: {"sampler": WeightedRandomSampler([1.0, 2.0, 0.0, 3.0], 17)},
    "of NumPy numbers": lambda d: {"sampler": Eager(len(d), np.int32)},
    "of tensors": lambda d: {"sampler": Eager(len(d), torch.tensor)},
    "eager": lambda d: {"sampler": Eager(len(d))},
    "eager, drop_last": lambda d: {"sampler": Eager(len(d)), "drop_last": True},
    "a list": lambda d: {"sampler": [3, 1, 2, -1]},
    "without length": lambda d: {"sampler": Endless(len(d))},
}
BATCH_SAMPLERS = {
    "torch's": lambda d: BatchSampler(Eager(len(d)), 5, drop_last=True),
    "torch's, shuffled": lambda d: BatchSampler(RandomSampler(d), 5, drop_last=False),
    "lists": lambda d: Batches(len(d)),
    "tuples": lambda d: Batches(len(d), tuple),
    "arrays": lambda d: Batches(len(d), read_only),
    "tensors": lambda d: Batches(len(d), torch.tensor),
    "a list of lists": lambda d: [[0, 1], [2], [1, 3, -1]],
}


def passes(iterate, count=2):
    """Return batches and random states of some passes, each seen after a batch was handed out."""
    torch.manual_seed(11)
    seen = []
    for number in range(count):
        for batch in iterate(number):
            seen.append((batch, torch.get_rng_state()))
            torch.rand(3)  # as a net with dropout does between two batches
    return seen, torch.get_rng_state()


def assert_like_the_loader(make, states=True):
    loader = make()
    source = recognize(make())
    assert isinstance(source, MemorySource)
    expected, end = passes(lambda _: loader)
    got, our_end = passes(source.batches)
    assert len(got) == len(expected)
    for (ours, state), (theirs, their_state) in zip(got, expected, strict=True):
        assert type(ours) is type(theirs) is list
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            assert torch.equal(a, b)
        assert not states or torch.equal(state, their_state)
    assert torch.equal(our_end, end)


@pytest.mark.parametrize("arguments", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("data", DATASETS.values(), ids=DATASETS)
def test_gives_the_batches_of_the_loader_itself_and_draws_what_it_draws(data, arguments):
    held = data()
    assert_like_the_loader(lambda: DataLoader(held, **arguments))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("name", ["tensors", "nested subset"])
def test_follows_any_sampler(name, sampler):
    held = DATASETS[name]()
    if name == "nested subset":
        held = Subset(dataset(), [*range(5, 20), -1, 0])
    assert_like_the_loader(lambda: DataLoader(held, batch_size=4, **sampler(held)))


@pytest.mark.parametrize("start", [0, 2, 6, 9])
def test_a_sampler_that_draws_as_it_goes_draws_all_when_a_pass_begins(start):
    held = dataset()
    torch.manual_seed(5)
    torch.empty((), dtype=torch.int64).random_()  # which a loader seeds its workers with
    order = list(BatchSampler(Lazy(len(held)), 4, drop_last=False))
    after = torch.get_rng_state()
    torch.manual_seed(5)
    source = recognize(DataLoader(held, 4, sampler=Lazy(len(held))))
    batches = source.batches(0, start)
    assert torch.equal(torch.get_rng_state(), after)
    torch.rand(7)
    assert [batch[1].tolist() for batch in batches] == order[start:]


@pytest.mark.parametrize("sampler", BATCH_SAMPLERS.values(), ids=BATCH_SAMPLERS)
def test_follows_any_batch_sampler(sampler):
    held = dataset()
    assert_like_the_loader(lambda: DataLoader(held, batch_sampler=sampler(held)))


@pytest.mark.parametrize("samples", [SAMPLES, 24])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 3, 5, 6])
def test_leaves_the_loaders_generator_where_the_loader_leaves_it(samples, drop_last, stop):
    def states(iterate, generator):
        seen = []
        for _ in range(2):
            for number, _ in enumerate(iterate()):
                seen.append(generator.get_state())
                if number == stop:
                    break
            seen.append(generator.get_state())
        return seen

    def loader():
        generator = torch.Generator().manual_seed(5)
        arguments = {"batch_size": 4, "shuffle": True, "drop_last": drop_last}
        return DataLoader(dataset(samples), generator=generator, **arguments)

    theirs, ours = loader(), loader()
    source = recognize(ours)
    assert source is not None
    expected = states(lambda: theirs, theirs.generator)
    got = states(lambda: source.batches(0), ours.generator)
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 4, "shuffle": True},
        {"batch_size": 4, "shuffle": True, "persistent_workers": True},
        {"batch_sampler": Batches(SAMPLES)},
        {"batch_sampler": Batches(SAMPLES), "persistent_workers": True},
    ],
    ids=["shuffled", "persistent", "own batch sampler", "persistent, own"],
)
def test_draws_as_early_as_the_loaders_workers_do(arguments):
    held = dataset()
    assert_like_the_loader(lambda: DataLoader(held, num_workers=2, **arguments))


def test_goes_on_as_persistent_workers_that_are_running_would():
    held = dataset()
    loaders = [
        DataLoader(held, 4, shuffle=True, num_workers=1, persistent_workers=True) for _ in "ab"
    ]
    for loader in loaders:
        list(loader)
    source = recognize(loaders[0])
    assert source is not None
    (_, ours), (_, theirs) = passes(source.batches), passes(lambda _: loaders[1])
    assert torch.equal(ours, theirs)


def test_starts_no_worker_process(monkeypatch):
    def refuse(*_):
        pytest.fail("a process was started")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    children = set(psutil.Process().children(recursive=True))
    x, y = torch.randn(40, 2), torch.randn(40, 1)
    loader = DataLoader(TensorDataset(x, y), 8, num_workers=2, persistent_workers=True)
    KerasModel(nn.Linear(2, 1), nn.MSELoss()).fit(loader, loader, epochs=2, verbose=0)
    assert set(psutil.Process().children(recursive=True)) <= children


def test_asks_the_dataset_for_no_sample(monkeypatch):
    def refuse(*_):
        pytest.fail("a sample was read")

    monkeypatch.setattr(TensorDataset, "__getitem__", refuse)
    source = recognize(DataLoader(Subset(dataset(), [1, 2, 3]), 2, shuffle=True))
    assert source is not None
    assert len(list(source.batches(0))) == 2


class Augmented(TensorDataset):
    def __getitem__(self, index):
        return tuple(tensor + 1 for tensor in super().__getitem__(index))


class Noisy(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.randn(2), index


class Loader(DataLoader):
    pass


class Picky(Subset):
    pass


class Marked(torch.Tensor):
    pass


def collate(samples):
    return torch.stack([sample[0] for sample in samples]), None


UNKNOWN = {
    "collate_fn": lambda: DataLoader(dataset(), 4, collate_fn=collate),
    "loader of one's own": lambda: Loader(dataset(), 4),
    "subclass of TensorDataset": lambda: DataLoader(Augmented(torch.zeros(5, 2)), 2),
    "subclass of Subset": lambda: DataLoader(Picky(dataset(), [1, 2]), 2),
    "subset of something else": lambda: DataLoader(Subset(Noisy(), [1, 2, 3]), 2),
    "dataset of one's own": lambda: DataLoader(Noisy(), 2),
    "worker_init_fn": lambda: DataLoader(dataset(), 4, worker_init_fn=print),
    "no batching": lambda: DataLoader(dataset(), batch_size=None),
    "batches as samples": lambda: DataLoader(
        dataset(), sampler=BatchSampler(SequentialSampler(dataset()), 5, drop_last=False)
    ),
    "subclass of Tensor": lambda: DataLoader(
        TensorDataset(torch.zeros(4, 2).as_subclass(Marked)), 2
    ),
    "sparse": lambda: DataLoader(TensorDataset(torch.eye(4).to_sparse()), 2),
    "subset by labels": lambda: DataLoader(
        Subset(dataset(), pd.Series([5, 6, 7], index=[2, 0, 1])), 2
    ),
    "subset of nothing": lambda: DataLoader(Subset(dataset(), []), 2),
    "subset of masks": lambda: DataLoader(Subset(dataset(), [True, False]), 2),
    "subset of pairs": lambda: DataLoader(Subset(dataset(), [[0, 1], [2, 3]]), 2),
    "subset of names": lambda: DataLoader(Subset(dataset(), ["a", "b"]), 2),
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_keeps_a_loader_that_it_does_not_know_to_the_last_detail(make):
    assert recognize(make()) is None


@pytest.mark.parametrize("name", ["batches as samples", "subset by labels", "collate_fn"])
def test_gives_what_an_unknown_loader_gives(name):
    make = UNKNOWN[name]
    source = as_source(make(), "train_data", Batching())
    assert isinstance(source, LoaderSource)
    for ours, theirs in zip(source.batches(0), make(), strict=True):
        assert all(a is b or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_never_writes_to_the_users_tensors():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x.mul_(2.0).add_(1.0))

    def loss(y_pred, y_true):
        return (y_pred - y_true.sub_(5.0)).square().mean()

    x, y = torch.randn(12, 3), torch.randn(12, 1)
    kept = x.clone(), y.clone()
    for data in ((x, y), TensorDataset(x, y), DataLoader(TensorDataset(x, y), 12)):
        KerasModel(InPlace(), loss).fit(data, data, epochs=2, batch_size=12, verbose=0)
        assert torch.equal(x, kept[0])
        assert torch.equal(y, kept[1])


def test_batches_never_share_memory_with_each_other():
    x = torch.randn(8, 2)
    source = as_source((x, x), "train_data", Batching(batch_size=4))
    pointers = {t.data_ptr() for batch in list(source.batches(0)) for t in batch}
    assert len(pointers) == 4
    assert x.data_ptr() not in pointers


@pytest.mark.parametrize("start", [0, 2, 6, 9])
def test_begins_in_the_middle_with_the_batches_of_the_whole(start):
    def batches(start):
        torch.manual_seed(2)
        source = recognize(DataLoader(dataset(), 4, sampler=Lazy(SAMPLES)))
        assert source is not None
        return list(source.batches(0, start))

    whole, rest = batches(0), batches(start)
    assert [b[1].tolist() for b in rest] == [b[1].tolist() for b in whole[start:]]


@pytest.mark.parametrize("name", ["tensors", "nested subset", "random split"])
def test_batches_a_dataset_of_tensors_in_our_order(name):
    held = DATASETS[name]()
    order = Order(len(held), 4, shuffle=True, seed=6)
    source = dataset_source(held, order)
    assert source is not None
    assert (source.steps, source.samples) == (len(order), len(held))
    for batch, index in zip(source.batches(1), order.batches(1), strict=True):
        for column, tensor in enumerate(batch):
            expected = torch.stack([held[i][column] for i in index.tolist()])
            assert torch.equal(tensor, expected)


def test_serves_no_dataset_whose_samples_must_be_asked_for():
    assert dataset_source(Noisy(), Order(6, 2, shuffle=False, seed=0)) is None


@pytest.mark.parametrize(
    ("arguments", "steps", "samples", "smallest"),
    [
        ({"batch_size": 4}, 6, 23, 3),
        ({"batch_size": 4, "drop_last": True}, 5, 23, 4),
        ({"batch_size": 23}, 1, 23, 23),
        ({"batch_sampler": Batches(23)}, 2, None, None),
        ({"batch_size": 4, "sampler": Endless(23)}, None, None, None),
    ],
)
def test_tells_how_much_there_is_as_far_as_it_is_known(arguments, steps, samples, smallest):
    source = recognize(DataLoader(dataset(), **arguments))
    assert source is not None
    assert (source.steps, source.samples, source.smallest_batch) == (steps, samples, smallest)


def test_names_the_samples_of_the_batch_that_was_served_last():
    source = as_source((torch.zeros(9, 1), torch.zeros(9)), "train_data", Batching(4))
    assert source.served() == []
    batches = source.batches(0)
    next(batches)
    next(batches)
    assert source.served().tolist() == [4, 5, 6]


def test_an_index_beyond_the_data_is_an_index_error_as_in_the_loader():
    loader = DataLoader(dataset(), batch_size=2, sampler=[0, SAMPLES])
    source = recognize(loader)
    assert source is not None
    for batches in (iter(loader), source.batches(0)):
        with pytest.raises(IndexError):
            next(batches)


def test_random_loaders_agree_over_many_draws():
    draw = random.Random(0)
    for _ in range(40):
        samples, size = draw.randint(1, 30), draw.randint(1, 12)
        held = dataset(samples)
        arguments = {"shuffle": draw.random() < 0.7, "drop_last": draw.random() < 0.5}
        make = lambda held=held, size=size, kw=arguments: DataLoader(held, size, **kw)  # noqa: E731
        assert_like_the_loader(make)


def test_what_does_not_fit_on_the_device_is_moved_batch_by_batch(monkeypatch):
    monkeypatch.setattr("fitorch.data.in_memory.fits", lambda *_: False)
    x = torch.arange(6.0)
    source = ordered_source([x, x], Order(6, 4, shuffle=False, seed=0)).to(torch.device("meta"))
    assert [[t.device.type for t in batch] for batch in source.batches(0)] == [["meta"] * 2] * 2
    assert source.tensors[0].device.type == "cpu"
