import copy
import gc
import os
import re
from collections import UserDict, namedtuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fitorch import KerasModel
from fitorch.data.in_memory import MemorySource
from fitorch.data.loader import LoaderSource
from fitorch.data.sources import Batching, as_source, split_validation
from fitorch.errors import DataError
from fitorch.tree import leaves
from tolerances import FLOAT32

N, SIZE = 22, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR)
Y = torch.randn(N, 1, generator=GENERATOR)
W = torch.rand(N, generator=GENERATOR)
CLASSES = torch.arange(N) % 2


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


def start():
    torch.manual_seed(1)
    return nn.Linear(3, 1)


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


def fit(data, net=None, val_data=None, loss=nn.MSELoss, epochs=2, forward=None, **arguments):
    net = start() if net is None else net
    sgd = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    model = KerasModel(net, loss(), optimizer=sgd, forward=forward)
    settings = {"batch_size": SIZE, "shuffle": False, "verbose": 0, **arguments}
    return net, model.fit(data, val_data, epochs, **settings)


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


# Weights


@pytest.mark.parametrize(
    "make",
    [
        lambda: (X, Y, W),
        lambda: (X.numpy(), Y.numpy(), W.double().numpy()),
        lambda: (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy()), pd.Series(W.numpy())),
        lambda: DataLoader(TensorDataset(X, Y, W), SIZE),
        lambda: Samples((X, Y, W)),
        lambda: Stream((X, Y, W)),
        lambda: list(batches((X, Y, W))),
        lambda: as_numpy((X, Y, W)),
        lambda: (X, Y, W.unsqueeze(1)),
    ],
    ids=[
        "tensors",
        "arrays",
        "frames",
        "loader",
        "dataset",
        "iterable",
        "batches",
        "numpy",
        "column",
    ],
)
def test_weighs_samples_in_data_of_any_kind(make):
    net, frame = fit(make(), val_data=make(), epochs=1)
    expected = start()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    total = 0.0
    for x, y, w in batches((X, Y, W)):
        optimizer.zero_grad()
        loss = ((expected(x) - y).square().squeeze(1) * w).sum() / w.sum()
        loss.backward()
        optimizer.step()
        total += loss.item() * w.sum().item()
    torch.testing.assert_close(net.weight, expected.weight)
    assert frame["train_loss"][0] == pytest.approx(total / W.sum().item(), rel=1e-5)
    squares = (expected(X) - Y).square().squeeze(1)
    assert frame["val_loss"][0] == pytest.approx(((squares * W).sum() / W.sum()).item(), rel=1e-4)


def test_weighs_samples_in_a_mapping():
    columns = {"x": X, "labels": Y, "sample_weight": W}
    net, _ = fit(columns, Named(start()), epochs=1)
    expected, _ = fit((X, Y, W), epochs=1)
    torch.testing.assert_close(net.net.weight, expected.weight)


ONE_HOT = nn.functional.one_hot(CLASSES).float()
BINARY = CLASSES.float().unsqueeze(1)
CLASSIFIED = {
    "numbers": (CLASSES, nn.CrossEntropyLoss, 2),
    "one-hot": (ONE_HOT, nn.CrossEntropyLoss, 2),
    "a column of floats": (BINARY, nn.BCEWithLogitsLoss, 1),
}


@pytest.mark.parametrize(("y", "loss", "outputs"), CLASSIFIED.values(), ids=CLASSIFIED)
@pytest.mark.parametrize("kind", ["tensors", "arrays", "loader", "worker", "dataset", "stream"])
def test_weighs_classes_in_data_of_any_kind(kind, y, loss, outputs):
    data = {
        "tensors": lambda: (X, y),
        "arrays": lambda: (X.numpy(), y.numpy()),
        "loader": lambda: DataLoader(TensorDataset(X, y), SIZE),
        "worker": lambda: DataLoader(Samples((X, y)), SIZE, collate_fn=collate),
        "dataset": lambda: Samples((X, y)),
        "stream": lambda: Stream((X, y)),
    }[kind]()
    torch.manual_seed(0)
    net = nn.Linear(3, outputs)
    expected = copy.deepcopy(net)
    weights = torch.where(CLASSES == 1, 5.0, 1.0)
    fit(data, net, loss=loss, class_weight={1: 5.0}, epochs=1)
    fit((X, y, weights), expected, loss=loss, epochs=1)
    torch.testing.assert_close(net.weight, expected.weight)


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


# validation_split, steps_per_epoch, validation


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.1, 0.07])
def test_validates_on_the_last_fraction_as_keras_does(fraction):
    cut = int(N * (1 - fraction))
    (x, y), (val_x, val_y) = split_validation((X, Y), fraction, torch.float32)
    assert torch.equal(x, X[:cut])
    assert torch.equal(y, Y[:cut])
    assert torch.equal(val_x, X[cut:])
    assert torch.equal(val_y, Y[cut:])


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X, Y, None),
        (X.double().numpy(), Y.numpy()),
        (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
    ],
    ids=["tensors", "None", "arrays", "frames"],
)
def test_trains_on_the_rest_shuffled_after_the_split(data):
    net, frame = fit(data, validation_split=0.25, shuffle=True, seed=4)
    expected, other = fit((X[:16], Y[:16]), val_data=(X[16:], Y[16:]), shuffle=True, seed=4)
    torch.testing.assert_close(net.weight, expected.weight)
    assert frame["val_loss"].tolist() == pytest.approx(other["val_loss"].tolist())


def test_splits_weights_and_inputs_by_name_too():
    data = ({"a": X, "b": [Y]}, Y, W)
    train, val = split_validation(data, 0.5, torch.float32)
    assert [len(leaf) for leaf in leaves((train, val))] == [11] * 8
    assert torch.equal(val[0]["b"][0], Y[11:])


def test_splits_a_mapping_of_columns():
    net, frame = fit({"x": X, "labels": Y}, Named(start()), validation_split=0.25)
    expected, other = fit((X[:16], Y[:16]), val_data=(X[16:], Y[16:]))
    torch.testing.assert_close(net.net.weight, expected.weight)
    assert frame["val_loss"].tolist() == pytest.approx(other["val_loss"].tolist())


@pytest.mark.parametrize(
    "name", ["a loader", "a dataset", "an iterable dataset", "a list of batches", "TensorDataset"]
)
def test_refuses_to_split_what_is_not_in_memory(name):
    data = DATA[name]()
    with pytest.raises(ValueError, match=f"train_data is a {type(data).__name__}; pass val_data"):
        fit(data, validation_split=0.2)


@pytest.mark.parametrize(("samples", "fraction"), [(1, 0.5), (3, 0.9), (2, 1e-17)])
def test_refuses_a_split_that_leaves_nothing(samples, fraction):
    with pytest.raises(ValueError, match=f"of {samples} samples leaves .* at least one"):
        fit((X[:samples], Y[:samples]), validation_split=fraction)


def seen(data, steps, epochs=4, **arguments):
    """Return the first feature of every sample that a fit saw, in its order."""
    found = []
    torch.manual_seed(0)  # some nets would diverge, with features as large as these

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                found.extend(x[:, 0].tolist())
            return super().forward(x)

    fit(data, Spy(3, 1), epochs=epochs, steps_per_epoch=steps, **arguments)
    return found


@pytest.mark.parametrize("name", ["tensors", "a loader over tensors", "a loader", "a dataset"])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_short_epochs_go_on_and_see_all_data(name, steps):
    stream = [value for _ in range(9) for x, _ in batches() for value in x[:, 0].tolist()]
    found = seen(DATA[name](), steps)
    assert found == stream[: len(found)]
    assert len(found) > 4 * (steps - 1) * SIZE


def test_short_epochs_go_on_with_a_generator():
    x = torch.arange(60.0).repeat(3, 1).T
    data = ((x[i : i + 5], torch.zeros(5, 1)) for i in range(0, 60, 5))
    assert seen(data, 3, epochs=4, val_data=(X, Y), gradient_accumulation_steps=2) == list(
        map(float, range(60))
    )


def test_validation_begins_anew_each_time():
    class Counting(Lengthless):
        begun = 0

        def __iter__(self):
            self.begun += 1
            return batches()

    data = Counting()
    _, frame = fit((X, Y), val_data=data, epochs=3, validation_steps=2, steps_per_epoch=1)
    assert data.begun == 3
    net = start()
    for number in range(3):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        nn.functional.mse_loss(net(X[4 * number :][:4]), Y[4 * number :][:4]).backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X[:8]), Y[:8]).item()
        assert frame["val_loss"][number] == pytest.approx(loss, rel=1e-5)


# Bad data


EMPTY = {
    "tensors": lambda: (X[:0], Y[:0]),
    "arrays": lambda: (np.empty((0, 3)), np.empty((0, 1))),
    "dataset": lambda: Samples((X[:0], Y[:0])),
    "TensorDataset": lambda: TensorDataset(X[:0], Y[:0]),
    "list": list,
    "dict": lambda: {"x": X[:0], "labels": Y[:0]},
}


@pytest.mark.parametrize("role", ["train_data", "val_data"])
@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY)
def test_refuses_empty_data_naming_role_length_and_batch_size(make, role):
    data = {"train_data": (X, Y), "val_data": (X, Y), role: make()}
    kind = {"train_data": "training", "val_data": "validation"}[role]
    expected = f"{role} is empty: the {kind} data has 0 samples.*batch_size=4 and drop_last=False"
    with pytest.raises(DataError, match=expected):
        fit(data["train_data"], val_data=data["val_data"])


@pytest.mark.parametrize("over", [TensorDataset(X[:3], Y[:3]), Samples((X[:3], Y[:3]))])
def test_refuses_a_loader_whose_one_batch_is_dropped(over):
    loader = DataLoader(over, 8, drop_last=True)
    with pytest.raises(DataError, match=r"data has 3 samples.*batch_size=8 and drop_last=True"):
        fit(loader)
    with pytest.raises(DataError, match=r"the validation data has 3 samples.*drop_last=True"):
        fit((X, Y), val_data=loader)


@pytest.mark.parametrize("data", [Stream(count=0), iter([]), DataLoader(Stream(count=0), 2)])
def test_refuses_data_that_turns_out_to_be_empty(data):
    with pytest.raises(DataError, match="train_data is empty: the training data has no batches"):
        fit(data)


def test_refuses_validation_data_that_turns_out_to_be_empty():
    with pytest.raises(DataError, match="val_data is empty: the validation data gave no batch"):
        fit((X, Y), val_data=Stream(count=0))


def test_names_no_role_where_data_is_only_predicted():
    with pytest.raises(DataError, match=r"^data is empty: it has 0 samples"):
        KerasModel(nn.Linear(3, 1)).predict(X[:0])


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (X, "a list of length 1"),
        ((X,), "a list of length 1"),
        ([(X,)], "a tuple of length 1"),
        ([(X, Y, W, Y)], "a tuple of length 4"),
        ([(X.numpy(),)], "a tuple of length 1"),
        ([(X.numpy(),) * 4], "a tuple of length 4"),
        (DataLoader(X, 4), "a Tensor: float32"),
        (TensorDataset(X), "a list of length 1"),
        (DataLoader(TensorDataset(X, Y, W, W), 4), "a list of length 4"),
    ],
    ids=[
        "x",
        "(x,)",
        "1-tuples",
        "4-tuples",
        "NumPy",
        "4-NumPy",
        "tensors",
        "TensorDataset",
        "loader",
    ],
)
def test_names_the_three_forms_where_a_batch_has_none_of_them(data, got):
    forms = r"\(features, targets\), \(features, targets, sample_weight\), or a mapping"
    with pytest.raises(DataError, match=f"a batch must be {forms}, but got {got}") as caught:
        fit(data)
    assert "epoch 1, training batch 1" in str(caught.value.__notes__)


def test_refuses_a_tuple_of_four():
    with pytest.raises(DataError, match=r"train_data is a tuple of 4; expected \(x, y\) or"):
        fit((X, Y, W, W))


@pytest.mark.parametrize(
    "data", [(X, Y[:5]), (X.numpy(), Y.numpy()[:5]), (X, Y, W[:5]), {"x": X, "labels": Y[:5]}]
)
def test_refuses_parts_of_different_lengths(data):
    with pytest.raises(DataError, match=r"different lengths: x has 22.* has 5 samples"):
        fit(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([X, Y], r"list of arrays; pass a tuple \(x, y\)"),
        (5, "train_data is a int; expected a DataLoader"),
        ("text", "train_data is a str; expected"),
        (None, "train_data is a NoneType; expected"),
        ({"x": X, "labels": ["a"] * N}, "train_data is a dict; expected"),
        ((X, None), "train_data's y is a NoneType; pass a tensor"),
        ((X, [0, 1] * 11), r"train_data's y\[0\] is a int; pass a tensor"),
        ((scipy.sparse.eye_array(N).tocsr(), Y), r"x is a sparse csr_array.*x\.toarray\(\)"),
        (scipy.sparse.eye_array(N).tocsr(), r"x is a sparse csr_array"),
        (Dataset(), "train_data is a Dataset without a length; define __len__"),
    ],
)
def test_refuses_what_no_batch_can_be_made_of(data, message):
    with pytest.raises(TypeError, match=message):
        fit(data)


def test_names_the_batch_whose_array_holds_no_numbers():
    data = [*as_numpy()[:2], (X[:4].numpy(), np.array(list("abcd")))]
    with pytest.raises(DataError, match="a batch of train_data's y has dtype <U1") as caught:
        fit(data)
    assert "while reading epoch 1, training batch 3 of train_data" in caught.value.__notes__


def test_names_the_pass_in_which_a_generator_has_ended():
    with pytest.raises(DataError, match="has no batches in pass 2; a generator yields"):
        fit(batches())


def test_says_that_a_generator_can_not_validate_twice():
    with pytest.raises(DataError, match=r"val_data is empty.*a generator yields its batches"):
        fit((X, Y), val_data=batches())


class Faulty(Samples):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def __getitem__(self, index):
        if index == 9:
            self.fault()
        return super().__getitem__(index)


def missing():
    message = "no such scan"
    raise FileNotFoundError(message)


@pytest.fixture
def impatient(monkeypatch):
    """End workers soon: torch waits five seconds for those whose loader an error left behind."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_dataset_keeps_its_type_and_names_the_batch(workers):
    loader = DataLoader(Faulty(missing), SIZE, num_workers=workers)
    with pytest.raises(FileNotFoundError, match="no such scan") as caught:
        fit(loader)
    assert caught.value.__notes__ == ["while reading epoch 1, training batch 3 of train_data"]


def test_an_error_in_validation_data_names_the_batch_too():
    with pytest.raises(FileNotFoundError, match="no such scan") as caught:
        fit((X, Y), val_data=Faulty(missing))
    [note] = caught.value.__notes__
    assert note == ("while reading epoch 1, batch 3 of val_data, one of the samples [8, 9, 10, 11]")


def test_an_error_in_a_dataset_names_the_samples_of_its_batch_in_any_order():
    class OneMissing(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            if index == 17:
                raise LookupError
            return torch.ones(3), torch.ones(1)

    with pytest.raises(LookupError) as caught:
        KerasModel(nn.Linear(3, 1), "mse").fit(OneMissing(), batch_size=8, epochs=1, verbose=0)
    samples = re.search(r"one of the samples \[(.*)\]", caught.value.__notes__[0])[1]
    assert "17" in samples.split(", ")
    assert len(samples.split(", ")) == 8


def die():
    os.kill(os.getpid(), 9)


# torch tries whether it can still open files when a connection breaks, and closes none of them.
unclosed = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning",
)


@unclosed
@pytest.mark.usefixtures("impatient")
def test_a_worker_that_was_killed_is_told_by_pid_signal_and_number_of_workers():
    loader = DataLoader(Faulty(die), SIZE, num_workers=1)
    named = r"worker process \(pid \d+, SIGKILL\) of train_data died \(num_workers=1\)"
    with pytest.raises(DataError, match=rf"{named}.*/dev/shm") as caught:
        fit(loader)
    assert caught.value.__cause__ is not None
    assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("pids", ["pid 12", "pid(s) 12", "pid(s) 12, 34"])
def test_knows_torchs_own_words_for_a_dead_worker(pids):
    def fault():
        message = f"DataLoader worker ({pids}) exited unexpectedly"
        raise RuntimeError(message)

    with pytest.raises(DataError, match=re.escape(f"a worker process ({pids}) of train_data")):
        fit(Faulty(fault))


@unclosed
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", [ConnectionResetError, EOFError])
def test_a_lost_connection_is_no_dead_worker_while_all_of_them_live(kind):
    def fault():
        raise kind

    with pytest.raises(kind):
        fit(DataLoader(Faulty(fault), SIZE, num_workers=1))


def test_other_runtime_errors_of_a_loader_stay_what_they_are():
    def fault():
        message = "the camera is off"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=r"^the camera is off") as caught:
        fit(Faulty(fault))
    assert not isinstance(caught.value, DataError)


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


def test_sample_weights_of_mappings_count_in_accumulation_windows():
    columns = {
        "input": torch.randn(8, 3),
        "labels": torch.randint(0, 2, (8,)),
        "sample_weight": torch.rand(8),
    }

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(3, 2)

        def forward(self, input, labels=None):  # noqa: A002 - the name of its column
            return self.linear(input)

    weights = []
    for size, window in ((8, 1), (2, 4)):
        net = Named()
        options = {"batch_size": size, "gradient_accumulation_steps": window, "shuffle": False}
        KerasModel(net, "cross_entropy", optimizer="sgd").fit(
            columns, epochs=1, verbose=0, **options
        )
        weights.append(net.linear.weight.detach())
    assert torch.allclose(weights[0], weights[1], **FLOAT32)
