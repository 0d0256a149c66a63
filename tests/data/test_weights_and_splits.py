"""Sample and class weights, `validation_split` and short epochs, over data of every kind."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data.kinds import (
    DATA,
    SIZE,
    Lengthless,
    N,
    Named,
    Samples,
    Stream,
    W,
    X,
    Y,
    as_numpy,
    batches,
    collate,
    fit,
    start,
)
from fitorch import KerasModel
from fitorch.data.validation import split_validation
from fitorch.tree import leaves
from tolerances import FLOAT32

CLASSES = torch.arange(N) % 2


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


@pytest.mark.parametrize("samples", [10, 20, 30, 50, 100, 1000])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_fraction_of_tenths_splits_exactly(samples, tenths):
    x = torch.zeros(samples, 1)
    train, validation = split_validation((x, x), tenths / 10, torch.float32)
    assert len(validation[0]) == samples * tenths // 10
    assert len(train[0]) == samples * (10 - tenths) // 10
