"""Scenarios: where nets, data, random numbers and files are, and how batches get to a device."""

import contextlib
import copy
import io
import random
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from devices.problems import (
    BATCH,
    BINARY,
    DEVICE,
    OTHER,
    SAMPLES,
    VALUES,
    X,
    check_as_on_the_cpu,
    check_same,
    linear,
    message_of,
    mlp,
    model_of,
    state,
    train,
)
from devices.scenarios import Scenarios
from fitorch import KerasModel, callbacks

SCENARIOS = Scenarios()


# Forms of data


class Pairs(Dataset):
    def __init__(self, x=X, y=VALUES):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, VALUES, strict=True))


class SamePinnedMemory:
    """A loader that fills the same pinned memory with each batch."""

    def __init__(self):
        self.x = torch.empty(BATCH, 4, pin_memory=True)
        self.y = torch.empty(BATCH, 1, pin_memory=True)

    def __len__(self):
        return SAMPLES // BATCH

    def __iter__(self):
        for start in range(0, len(self) * BATCH, BATCH):
            self.x.copy_(X[start : start + BATCH])
            self.y.copy_(VALUES[start : start + BATCH])
            yield self.x, self.y
            self.x.fill_(1e9)  # as the next batch may come at any time


class Refilling(DataLoader):
    """The same as a subclass of torch's loader, whose batches are not cloned."""

    def __len__(self):
        return SAMPLES // BATCH

    def __iter__(self):
        return iter(SamePinnedMemory())


class OnePinnedBatch(Dataset):
    """A dataset of batches, each of which it writes into the same pinned memory."""

    def __init__(self):
        self.x = torch.empty(BATCH, 4, pin_memory=True)
        self.y = torch.empty(BATCH, 1, pin_memory=True)

    def __len__(self):
        return SAMPLES // BATCH

    def __getitem__(self, i):
        self.x.copy_(X[i * BATCH : (i + 1) * BATCH])
        self.y.copy_(VALUES[i * BATCH : (i + 1) * BATCH])
        return self.x, self.y


class Batches:
    """Batches that are made anew in each pass."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return SAMPLES // BATCH

    def __iter__(self):
        return self.batches()


def _batches():
    for start in range(0, SAMPLES - BATCH, BATCH):
        yield X[start : start + BATCH], VALUES[start : start + BATCH]


def _in_place():
    """Yield batches in memory that is used again."""
    x, y = np.empty((BATCH, 4), np.float32), np.empty((BATCH, 1), np.float32)
    for start in range(0, SAMPLES - BATCH, BATCH):
        x[:], y[:] = X[start : start + BATCH], VALUES[start : start + BATCH]
        yield x, y


FORMS = {
    "tensors": lambda: (X, VALUES),
    "arrays": lambda: (X.numpy(), VALUES.numpy()),
    "a Dataset": Pairs,
    "a TensorDataset": lambda: TensorDataset(X, VALUES),
    "a loader": lambda: DataLoader(Pairs(), 8),
    "a loader of tensors": lambda: DataLoader(TensorDataset(X, VALUES), 8),
    "a loader with pinned memory": lambda: DataLoader(Pairs(), 8, pin_memory=True),
    "a loader of a stream": lambda: DataLoader(Stream(), 8),
    "a loader that fills the same pinned memory": SamePinnedMemory,
    "a subclass of a loader that fills it": lambda: Refilling(Pairs(), 8),
    "a Dataset of batches that fills it": lambda: DataLoader(OnePinnedBatch(), batch_size=None),
    "batches": lambda: list(_batches()),
    "batches in pinned memory": lambda: [tuple(t.pin_memory() for t in b) for b in _batches()],
    "batches in the same memory": lambda: Batches(_in_place),
    "tensors in pinned memory": lambda: (X.pin_memory(), VALUES.pin_memory()),
}


def _batching(data):
    """Return the arguments that declare the items of a list to be batches."""
    return {"batch_size": None} if isinstance(data, list) else {}


@SCENARIOS.add_each("data:", FORMS)
def _data(make):
    def figures(device, **options):
        model = model_of(device, metrics={"mae": "mae"}, **options)
        data = make()
        batching = _batching(data)
        history_and_weights = train(model, data, make(), **batching)
        measured = model.evaluate(make(), verbose=0, **batching)
        return history_and_weights, measured, model.predict(make(), verbose=0, **batching)

    check_as_on_the_cpu(figures)
    check_same(figures(DEVICE, data_on_device=False), figures("cpu"))


@SCENARIOS.add
def data_from_a_generator():
    def figures(device):
        model = model_of(device)
        found = train(model, _in_place(), epochs=1)
        return found, model.evaluate(_in_place(), verbose=0), model.predict(_in_place(), verbose=0)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def sparse_batches_are_copied_among_the_computations():
    from fitorch.devices import copies

    # The simulation has no sparse tensors, so this one is not moved.
    sent, copies.sent = copies.sent, lambda tensor, device: tensor
    try:
        batch = torch.eye(3).to_sparse()
        sender = copies.Sender(torch.device(DEVICE))
        assert next(sender.batches([[batch]])) == [batch]
    finally:
        copies.sent = sent


@SCENARIOS.add
def data_that_workers_read():
    def figures(device):
        model = model_of(device)
        found = train(model, Pairs(), Pairs(), epochs=1, num_workers=2)
        return found, model.predict(Pairs(), verbose=0, num_workers=2)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def data_of_a_loader_with_workers_and_pinned_memory():
    def figures(device):
        loader = DataLoader(Pairs(), 8, num_workers=1, pin_memory=device != "cpu")
        return train(model_of(device), loader, epochs=1)

    check_as_on_the_cpu(figures)


@SCENARIOS.add_each("data that lies", {"on the device": DEVICE, "on the other device": OTHER})
def _data_elsewhere(place):
    x, y = X.to(place), VALUES.to(place)
    forms = {
        "tensors": (x, y),
        "a Dataset": Pairs(x, y),
        "a TensorDataset": TensorDataset(x, y),
        "a loader": DataLoader(Pairs(x, y), 8),
        "batches": [(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)],
    }
    plain = {**forms, "tensors": (X, VALUES), "a Dataset": Pairs()}
    plain |= {"a TensorDataset": TensorDataset(X, VALUES), "a loader": DataLoader(Pairs(), 8)}
    plain["batches"] = [(X[i : i + 8], VALUES[i : i + 8]) for i in range(0, 24, 8)]
    for name, data in forms.items():
        batching = _batching(data)
        expected = train(model_of("cpu"), plain[name], **batching)
        for on_device in (True, False):
            model = model_of(DEVICE, data_on_device=on_device)
            check_same(train(model, data, val_data=None, **batching), expected, where=name)
            rows = 24 if name == "batches" else SAMPLES
            assert model.predict(data, verbose=0, **batching).shape == (rows, 1)


@SCENARIOS.add
def data_on_the_device_for_a_model_on_the_cpu():
    found = train(model_of("cpu"), (X.to(DEVICE), VALUES.to(DEVICE)))
    check_same(found, train(model_of("cpu")))


@SCENARIOS.add
def data_that_does_not_fit_goes_batch_by_batch():
    import simulated_device

    def figures(device):
        return train(model_of(device, metrics={"mae": "mae"}), val_data=(X, VALUES))

    check_as_on_the_cpu(figures)
    simulated_device.memory(DEVICE).free = 100
    check_as_on_the_cpu(figures)


@SCENARIOS.add
def data_leaves_room_if_it_may_not_stay_on_the_device():
    import simulated_device

    simulated_device.memory(DEVICE).largest = X.numel() * X.element_size() - 1
    train(model_of(DEVICE, data_on_device=False))


@SCENARIOS.add
def running_out_of_memory_says_how_much_was_in_use():
    import simulated_device

    memory = simulated_device.memory(DEVICE)
    memory.peak = 3 * 2**20
    memory.largest = 4000  # weights and data fit, activations do not

    def wide():
        return nn.Sequential(nn.Linear(4, 200), nn.Linear(200, 1))

    with pytest.raises(torch.OutOfMemoryError) as error:
        train(model_of(DEVICE, wide), batch_size=SAMPLES)
    assert "3 MB" in message_of(error), message_of(error)


@SCENARIOS.add
def a_net_that_does_not_fit_stays_where_it_was():
    import simulated_device

    memory = simulated_device.memory(DEVICE)
    memory.largest = 2000  # the second layer does not fit

    def wide():
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 100), nn.Linear(100, 1))

    model = model_of(DEVICE, wide)
    with pytest.raises(torch.OutOfMemoryError):
        train(model)
    assert {parameter.device.type for parameter in model.net.parameters()} == {"cpu"}
    memory.largest = float("inf")
    check_same(train(model)["weights"], train(model_of("cpu", wide))["weights"])


# Devices


@SCENARIOS.add
def a_model_trains_on_the_current_accelerator():
    model = model_of(None)
    train(model)
    assert next(model.net.parameters()).device == torch.device(DEVICE)


DEVICES = {
    "a name": lambda: OTHER,
    "a torch.device": lambda: torch.device(OTHER),
    "a number": lambda: 1,
}


@SCENARIOS.add_each("a device that is chosen by", DEVICES)
def _chosen(device):
    model = model_of(device(), mlp)
    train(model, val_data=(X, VALUES))
    assert {str(p.device) for p in model.net.parameters()} == {OTHER}


@SCENARIOS.add
def a_name_without_a_number_is_the_current_device():
    model = model_of("far")
    with torch.far.device(1):
        train(model)
    places = {str(p.device) for p in model.net.parameters()}
    assert places in ({OTHER}, {DEVICE}), places


@SCENARIOS.add_each("a device that is refused:", {"far:7": "far:7", "cuda": "cuda:0", "7": 7})
def _refused(device):
    with pytest.raises(ValueError, match="this machine has 'far:0', 'far:1', 'cpu'"):
        KerasModel(linear(), "mse", device=device)


@SCENARIOS.add
def the_chosen_device_is_current_in_callbacks_and_losses():
    seen = set()

    def loss(y_pred, y_true):
        seen.add(torch.far.current_device())
        return ((y_pred - y_true) ** 2).mean() * torch.ones((), device="far")

    def note(*_):
        seen.add(torch.far.current_device())

    watch = callbacks.LambdaCallback(on_train_begin=note, on_epoch_end=note)
    model = model_of(OTHER, loss=loss)
    train(model, val_data=(X, VALUES), callbacks=[watch])
    model.evaluate((X, VALUES), verbose=0)
    assert seen == {1}
    assert torch.far.current_device() == 0


@SCENARIOS.add
def a_default_device_of_the_users():
    plain = model_of(DEVICE, metrics={"mae": "mae"})
    expected = train(plain, val_data=(X, VALUES))
    predicted = plain.predict(X, verbose=0)
    torch.set_default_device(DEVICE)
    try:
        torch.manual_seed(0)
        net = nn.Linear(4, 1)
        net.load_state_dict(model_of("cpu").net.state_dict())
        model = KerasModel(net, "mse", {"mae": "mae"}, "adam")
        check_same(train(model, val_data=(X, VALUES)), expected)
        check_same(model.predict(X, verbose=0), predicted)
        model.evaluate((X, VALUES), verbose=0)
        model.evaluate(DataLoader(Pairs(), 8), verbose=0)
        train(model, Pairs())
    finally:
        torch.set_default_device(None)


@SCENARIOS.add
def devices_are_listed():
    from fitorch.environment import devices

    assert {DEVICE, OTHER} <= {str(device) for device in devices()}


@SCENARIOS.add
def the_device_is_named():
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        train(model_of(OTHER), verbose=2)
    assert f"on {OTHER} (Simulation 1)" in found.getvalue(), found.getvalue()


@SCENARIOS.add
def a_summary_of_a_net_on_the_device():
    model = model_of(DEVICE, mlp)
    train(model)
    expected = str(model_of("cpu", mlp).summary(X[:2], verbose=0))
    assert str(model.summary(X[:2], verbose=0)) == expected


@SCENARIOS.add
def flops_of_a_net_on_the_device():
    from fitorch import flop_summary

    model = model_of(DEVICE, mlp)
    train(model)
    flop_summary(model.net, X[:2].to(DEVICE))


@SCENARIOS.add
def plots_and_cards_of_a_model_on_the_device():
    model = model_of(DEVICE, loss="bce_with_logits", metrics={"acc": "acc"})
    train(model, (X, BINARY), (X, BINARY), plot="history.png")
    model.plot_roc((X, BINARY), path="roc.png", verbose=0)
    model.plot_confusion_matrix((X, BINARY), path="matrix.png", verbose=0)
    assert DEVICE in str(model.card()), model.card()
    model.history.to_html("history.html")


# Files


@SCENARIOS.add_each("weights in a file", {"safetensors": "w.safetensors", "pt": "w.pt"})
def _files(name):
    model = model_of(DEVICE, mlp)
    train(model)
    model.save_ckpt(name)
    # The second one knows no tensors but torch's own.
    load = load_file if name.endswith("s") else partial(torch.load, weights_only=True)
    check_same(dict(sorted(load(name).items())), dict(sorted(state(model.net).items())), 0, 0)
    for device in (DEVICE, OTHER, "cpu"):
        again = model_of(device, mlp)
        train(again)
        again.load_ckpt(name)
        check_same(state(again.net), state(model.net), rtol=0, atol=0)


@SCENARIOS.add
def a_loss_that_learns_in_a_file():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, y_pred, y_true):
            return ((y_pred - y_true) ** 2).mean() * (-self.scale).exp() + self.scale

    model = model_of(DEVICE, loss=Scaled())
    train(model)
    model.save_ckpt("w.pt")
    again = model_of("cpu", loss=Scaled())
    again.load_ckpt("w.pt")
    check_same(state(again.net), state(model.net), rtol=0, atol=0)


@SCENARIOS.add_each("ModelCheckpoint of", {"weights": "w.safetensors", "weights in pt": "w.pt"})
def _model_checkpoint(name):
    def figures(device):
        model = model_of(device, mlp)
        saving = callbacks.ModelCheckpoint(name, monitor="train_loss")
        found = train(model, callbacks=[saving])
        model.load_ckpt(name)
        return found, state(model.net)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def a_folder_with_the_best_weights():
    def figures(device):
        model = model_of(device, mlp)
        found = train(model, val_data=(X, VALUES), ckpt_path=f"run-{device[:3]}", patience=2)
        return found, state(model.net)

    check_as_on_the_cpu(figures)


@SCENARIOS.add
def copies_of_a_model():
    model = model_of(DEVICE, mlp)
    train(model)
    again = copy.deepcopy(model)
    check_same(train(again), train(model))


@SCENARIOS.add
def exporting_a_net():
    model = model_of(DEVICE)
    train(model)
    model.export("net.pt2", X[:4])
    assert next(model.net.parameters()).device == torch.device(DEVICE)
    program = torch.export.load("net.pt2")
    found = program.module()(X)
    check_same(found.detach(), model.predict(X, verbose=0))


# Random numbers


@SCENARIOS.add
def generators_are_as_before_after_a_fit():
    def states():
        return [
            torch.get_rng_state(),
            torch.far.get_rng_state(0),
            torch.far.get_rng_state(1),
            torch.tensor(random.getstate()[1]),
        ]

    torch.manual_seed(5)
    torch.rand(3, device=DEVICE)
    before = states()
    for device in (DEVICE, OTHER):
        torch.set_rng_state(before[0])
        model = KerasModel(mlp(dropout=0.5), "mse", device=device)
        torch.set_rng_state(before[0])
        train(model, val_data=(X, VALUES))
        check_same(states(), before, rtol=0, atol=0)


@SCENARIOS.add
def generators_are_as_before_after_a_fit_that_started_the_device():
    import simulated_device

    torch.rand(3, device=DEVICE)
    before = torch.far.get_rng_state(0)
    model = model_of(DEVICE, lambda: mlp(dropout=0.5))
    torch.far.set_rng_state(before, 0)
    simulated_device.forget_start()
    train(model)
    assert torch.far.is_initialized()
    check_same(torch.far.get_rng_state(0), before, rtol=0, atol=0)


@SCENARIOS.add
def a_seed_decides_all_random_numbers():
    def figures(seed):
        return train(model_of(DEVICE, lambda: mlp(dropout=0.5)), seed=seed)

    first = figures(1)
    torch.rand(7, device=DEVICE)
    check_same(figures(1), first, rtol=0, atol=0)
    assert figures(2) != first
