"""Data of every kind is trained on as a loop by hand does, and known for what it is."""

from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data.kinds import (
    DATA,
    SIZE,
    Fetching,
    Lengthless,
    N,
    Named,
    Samples,
    Stream,
    Unimplemented,
    X,
    Y,
    as_numpy,
    batches,
    collate,
    fit,
    start,
)
from fitorch import KerasModel
from fitorch.data.in_memory import MemorySource
from fitorch.data.loader import LoaderSource
from fitorch.data.sources import Batching, as_source


class Rows:
    """Looks as datasets of Hugging Face do: no class of torch's, rows are dicts."""

    def __init__(self, key="x"):
        self.key = key

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {self.key: X[index], "labels": Y[index]}

    def __iter__(self):
        return (self[index] for index in range(N))


MAPPINGS = {
    "a dict of tensors": lambda: {"x": X, "labels": Y},
    "a dict of arrays": lambda: {"x": X.double().numpy(), "labels": Y.numpy()},
    "a dict of frames": lambda: {"x": pd.DataFrame(X.numpy()), "labels": pd.DataFrame(Y.numpy())},
    "rows": lambda: Rows(),
    "a loader over rows": lambda: DataLoader(Rows(), SIZE),
    "batches": lambda: [{"x": x, "labels": y} for x, y in batches()],
    "batches of NumPy": lambda: [{"x": x, "labels": y} for x, y in as_numpy()],
    "batches of another mapping": lambda: [UserDict({"x": x, "labels": y}) for x, y in batches()],
}
ONCE = {"generator": lambda: batches(), "generator of NumPy": lambda: iter(as_numpy())}


def by_hand(passes=2, x=X, y=Y):
    """Return the weights after a hand-written loop, and the mean loss of each pass."""
    net, means = start(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(passes):
        total = 0.0
        for features, targets in batches((x, y)):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(features), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(targets)
        means.append(total / len(x))
    return net, means


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_trains_on_data_of_any_kind_as_a_loop_by_hand(make):
    net, frame = fit(make(), val_data=make())
    expected, means = by_hand()
    torch.testing.assert_close(net.weight, expected.weight)
    assert frame["train_loss"].tolist() == pytest.approx(means, rel=1e-5)
    loss = nn.functional.mse_loss(expected(X), Y).item()
    assert frame["val_loss"].iloc[-1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("make", MAPPINGS.values(), ids=MAPPINGS)
def test_trains_on_mappings_of_any_kind_as_a_loop_by_hand(make):
    net, frame = fit(make(), Named(start()), val_data=make())
    expected, means = by_hand()
    torch.testing.assert_close(net.net.weight, expected.weight)
    assert frame["train_loss"].tolist() == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize("make", ONCE.values(), ids=ONCE)
def test_trains_on_a_generator_once(make):
    net, frame = fit(make(), epochs=1)
    expected, means = by_hand(1)
    torch.testing.assert_close(net.weight, expected.weight)
    assert frame["train_loss"].tolist() == pytest.approx(means, rel=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_keeps_a_loaders_sampler_workers_and_collate(workers):
    def loader():
        return DataLoader(Samples(), SIZE, shuffle=True, num_workers=workers, collate_fn=collate)

    torch.manual_seed(3)
    expected = [[t.clone() for t in batch] for batch in loader()]
    torch.manual_seed(3)
    source = as_source(loader(), "train_data", Batching(batch_size=99))
    assert isinstance(source, LoaderSource)
    got = list(source.batches(0))
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dataset", [Samples(), Fetching(), TensorDataset(X, Y), Rows("a")])
def test_batches_a_dataset_in_the_order_of_the_seed(dataset):
    batching = Batching(SIZE, shuffle=True, seed=5)
    source = as_source(dataset, "train_data", batching)
    for number in (0, 1):
        order = batching.order(N).batches(number, 2)
        for batch, index in zip(source.batches(number, 2), order, strict=True):
            first = batch["a"] if isinstance(batch, dict) else batch[0]
            assert torch.equal(first, X[index])


@pytest.mark.parametrize("start", [0, 3, 6, 9])
@pytest.mark.parametrize("name", ["a loader", "a list of NumPy batches", "a dataset"])
def test_begins_in_the_middle_with_the_batches_of_the_whole(name, start):
    source = as_source(DATA[name](), "train_data", Batching(SIZE))
    whole, rest = list(source.batches(0)), list(source.batches(0, start))
    assert len(rest) == max(0, 6 - start)
    for ours, theirs in zip(rest, whole[start:], strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_batching_a_dataset_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    list(as_source(Samples(), "train_data", Batching(SIZE, shuffle=True)).batches(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "kind"),
    [((X, Y), MemorySource), (TensorDataset(X, Y), MemorySource), (Samples(), LoaderSource)],
)
def test_knows_steps_samples_and_the_smallest_batch(data, kind):
    source = as_source(data, "train_data", Batching(SIZE))
    assert isinstance(source, kind)
    assert (source.steps, source.samples, source.smallest_batch) == (6, N, 2)


@pytest.mark.parametrize(("drop_last", "smallest"), [(False, 2), (True, 4)])
def test_knows_the_smallest_batch_of_a_users_loader(drop_last, smallest):
    loader = DataLoader(Samples(), SIZE, drop_last=drop_last)
    assert as_source(loader, "train_data", Batching()).smallest_batch == smallest


@pytest.mark.parametrize("data", [Stream(), Lengthless(), DataLoader(Stream(), 2), Unimplemented()])
def test_does_not_guess_what_data_does_not_tell(data):
    source = as_source(data, "train_data", Batching())
    assert (source.steps, source.smallest_batch) == (None, None)


def test_keeps_bytes_and_integers_of_features_in_every_form():
    pixels, labels = np.zeros((4, 2), np.uint8), np.arange(4, dtype=np.int32)
    forms = [
        (pixels, labels),
        {"x": pixels, "labels": labels},
        [(pixels, labels)],
        [[pixels, labels]],
        [{"x": pixels, "labels": labels}],
    ]
    for form in forms:
        batch = next(as_source(form, "train_data", Batching()).batches(0))
        x, y = batch.values() if isinstance(batch, dict) else batch
        assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)


# Several inputs, several outputs, batches of a form of one's own


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.one, self.other = nn.Linear(3, 1), nn.Linear(1, 1)

    def forward(self, a, b):
        return self.one(a), self.other(b)


def both(y_pred, y_true):
    return sum(nn.functional.mse_loss(p, t) for p, t in zip(y_pred, y_true, strict=True))


TWO = {
    "tuple": lambda: ((X, Y), (Y, Y)),
    "list": lambda: ([X, Y], [Y, Y]),
    "dict": lambda: ({"a": X, "b": Y}, (Y, Y)),
    "arrays": lambda: ((X.double().numpy(), Y.double().numpy()), (Y.numpy(), Y.numpy())),
    "dataset": lambda: Samples(
        ([*zip(X, Y, strict=True)], [*zip(Y, Y, strict=True)]),
    ),
    "loader": lambda: DataLoader(
        Samples(([{"b": y, "a": x} for x, y in zip(X, Y, strict=True)], [*zip(Y, Y, strict=True)])),
        SIZE,
    ),
    "batches": lambda: [((x, y), (y, y)) for x, y in batches()],
    "NumPy batches": lambda: [((x, y), [y, y]) for x, y in as_numpy()],
}


@pytest.mark.parametrize("make", TWO.values(), ids=TWO)
def test_fits_nets_of_several_inputs_and_outputs(make):
    net, _ = fit(make(), Two(), val_data=make(), loss=lambda: both, epochs=1)
    expected = Two()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for x, y in batches():
        optimizer.zero_grad()
        both(expected(x, y), (y, y)).backward()
        optimizer.step()
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def four(net, batch):
    return net(batch[1]), batch[3]


NAMES = [[f"id {number}"] * SIZE for number in range(N)]
HOOKED = {
    "tensors and text": lambda: [
        (name, x, None, y) for name, (x, y) in zip(NAMES, batches(), strict=False)
    ],
    "arrays and text": lambda: [
        (name, x, None, y) for name, (x, y) in zip(NAMES, as_numpy(), strict=False)
    ],
    "a loader": lambda: DataLoader(
        Samples((["id"] * N, X, Y, Y)), SIZE, collate_fn=torch.utils.data.default_collate
    ),
}


@pytest.mark.parametrize("make", HOOKED.values(), ids=HOOKED)
def test_hands_the_hook_batches_of_any_form(make):
    net, frame = fit(make(), val_data=make(), forward=four)
    expected, means = by_hand()
    torch.testing.assert_close(net.weight, expected.weight)
    assert frame["train_loss"].tolist() == pytest.approx(means, rel=1e-5)


def test_a_generator_may_fill_the_same_memory_again():
    def batches(reuse):
        x, y = np.empty((4, 2), np.float32), np.empty((4, 1), np.float32)
        generator = np.random.default_rng(0)
        for _ in range(6):
            if not reuse:
                x, y = x.copy(), y.copy()
            x[:], y[:] = generator.random((4, 2)), generator.random((4, 1))
            yield x, y

    frames, nets = [], []
    for reuse in (False, True):
        torch.manual_seed(0)
        nets.append(nn.Linear(2, 1))
        model = KerasModel(nets[-1], "mse", {"mae": "mae"}, "sgd")
        frame = model.fit(batches(reuse), epochs=1, gradient_accumulation_steps=3, verbose=0)
        frames.append(frame.drop(columns="seconds"))
    assert frames[0].equals(frames[1])
    assert torch.equal(nets[0].weight, nets[1].weight)
