"""Several processes train what one trains on the same batches."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import EarlyStopping
from fitorch.losses import L2
from tolerances import FLOAT64

SAMPLES, VALIDATED = 101, 37


def samples(count=SAMPLES):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


class Pairs(Dataset):
    def __init__(self, count=SAMPLES):
        self.x, self.y = samples(count)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Stream(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def model_of(kind="plain", **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    loss = {
        "plain": nn.CrossEntropyLoss(),
        "summed": nn.CrossEntropyLoss(reduction="sum"),
        "ignoring": nn.CrossEntropyLoss(ignore_index=2),
        "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double()),
        "penalized": nn.CrossEntropyLoss() + 1e-2 * L2(),
    }[kind]
    rate = 0.003 if kind == "summed" else 0.1
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    # A class that the loss ignores has no positive samples, so that no AUC is defined.
    metrics = {"acc": "acc"} if kind == "ignoring" else {"acc": "acc", "auc": "auroc"}
    return KerasModel(net, loss, metrics, optimizer, **options)


def data_of(kind, size):
    """Return training data, of which all processes together take 12 samples in an update."""
    x, y = samples()
    tensors = TensorDataset(x, y)
    order = torch.Generator().manual_seed(5)
    batches = [(x[i : i + size], y[i : i + size]) for i in range(0, SAMPLES, size)]
    return {
        "tensors": (x, y),
        "weights": (x, y, torch.linspace(0, 2, SAMPLES, dtype=torch.float64)),
        "dataset": Pairs(),
        "loader": DataLoader(tensors, size, shuffle=True, generator=order),
        "shuffled by torch": DataLoader(tensors, size, shuffle=True),
        "loader of a dataset": DataLoader(Pairs(), size, shuffle=True, generator=order),
        "stream": DataLoader(Stream(batches), batch_size=None),
        "list of batches": batches,
    }[kind]


DATA = [
    "tensors",
    "weights",
    "dataset",
    "loader",
    "shuffled by torch",
    "loader of a dataset",
    "stream",
    "list of batches",
]
FOUR = ("tensors", "loader of a dataset", "stream")  # one of each kind of source


def trained(data, loss="plain", world=1, **options):
    model = model_of(loss)
    options = {"epochs": 5, "batch_size": 12 // world, "seed": 3, "verbose": 0} | options
    x, y = samples(VALIDATED)
    frame = model.fit(data_of(data, 12 // world), (x, y), **options)
    return outcome(model, frame)


def outcome(model, frame):
    assert model.placement.processes.world_size >= 1
    weights = {name: value.clone() for name, value in model.net.state_dict().items()}
    table = {name: list(frame[name]) for name in frame if name != "seconds"}
    return weights, table, list(frame["seconds"]), model.placement.processes.world_size


def check_alike(answers, expected, count):
    weights, table, _, _ = expected
    for own, figures, seconds, world in answers:
        assert world == count
        assert figures.keys() == table.keys()
        for name, values in table.items():
            assert figures[name] == pytest.approx(values, rel=1e-9, abs=1e-12, nan_ok=True), name
        for name, value in weights.items():
            assert torch.allclose(own[name], value, **FLOAT64), name
        assert all(torch.equal(own[name], answers[0][0][name]) for name in own)
        assert repr(figures) == repr(answers[0][1])  # NaN is not equal to itself
        assert seconds == answers[0][2]


@pytest.mark.parametrize("data", DATA)
def test_any_data_gives_the_figures_and_weights_of_one_process(three, data):
    answers = three.run(trained, data, world=3)
    check_alike(answers, trained(data), 3)


@pytest.mark.parametrize("loss", ["summed", "ignoring", "weighted", "penalized"])
def test_any_loss_gives_the_figures_and_weights_of_one_process(three, loss):
    answers = three.run(trained, "tensors", loss, world=3)
    check_alike(answers, trained("tensors", loss), 3)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 3},
        {"clip_grad_norm": 0.1},
        {"class_weight": {0: 1.0, 1: 3.0}},
        {"steps_per_epoch": 4},
        {"patience": 1, "monitor": "val_acc"},
        {"train_metrics": False, "validation_freq": 2},
        {"find_unused_parameters": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_any_option_gives_the_figures_and_weights_of_one_process(three, options):
    answers = three.run(trained, "tensors", world=3, **options)
    check_alike(answers, trained("tensors", **options), 3)


@pytest.mark.parametrize("data", ["tensors", "shuffled by torch", "stream"])
def test_two_processes_too(two, data):
    check_alike(two.run(trained, data, world=2), trained(data), 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [data if data in FOUR else pytest.param(data, marks=pytest.mark.slow) for data in DATA],
)
def test_four_processes_too(four, data):
    check_alike(four.run(trained, data, world=4), trained(data), 4)


def stopped_by(monitor, mode):
    model = model_of()
    x, y = samples()
    callback = EarlyStopping(monitor, patience=0, mode=mode)
    frame = model.fit((x, y), (x, y), 20, batch_size=6, seed=3, verbose=0, callbacks=[callback])
    return len(frame), callback.stopped_epoch, model.history.best


def test_a_decision_is_the_same_in_all_processes(two):
    answers = two.run(stopped_by, "val_auc", "max")
    assert answers[0] == answers[1]
    assert answers[0][0] < 20
