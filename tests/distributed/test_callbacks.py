"""Callbacks of several processes: all are told the same, one writes."""

import os

import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import (
    EMA,
    Callback,
    CSVLogger,
    EpochCheckpoint,
    GradientNorm,
    LambdaCallback,
    ModelCheckpoint,
    ReduceLROnPlateau,
)


def samples():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def model_of():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return KerasModel(
        net, nn.CrossEntropyLoss(), {"acc": "acc"}, torch.optim.Adam(net.parameters(), 0.05)
    )


class Told(Callback):
    """Notes what it is told."""

    def __init__(self):
        self.epochs, self.batches, self.measured = [], 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))
        x, y = samples()  # a callback that measures does so in all processes
        self.measured.append(self.model.evaluate((x, y), verbose=0)["val_loss"])


class Writes(Callback):
    main_process_only = True

    def __init__(self, path):
        self.path = path

    def on_train_end(self, logs=None):
        with self.path.open("a") as file:
            file.write(f"{os.environ['RANK']}\n")


def told(folder):
    model, callback, touched = model_of(), Told(), []
    others = [
        Writes(folder / "ranks.txt"),
        CSVLogger(folder / "log.csv"),
        ModelCheckpoint(folder / "{epoch}.safetensors", save_top_k=1, monitor="val_loss"),
        EpochCheckpoint(folder / "epochs", max_ckpt=1),
        GradientNorm(),
        EMA(0.9),
        ReduceLROnPlateau("val_loss", patience=0, min_delta=1.0),
        LambdaCallback(on_train_end=lambda logs: touched.append(logs)),
    ]
    x, y = samples()
    frame = model.fit(
        (x, y), (x, y), 3, batch_size=10, seed=3, verbose=2, callbacks=[callback, *others]
    )
    return callback.epochs, callback.measured, callback.batches, len(touched), frame


def test_all_are_told_the_same_and_the_main_process_writes(two, tmp_path):
    answers = two.run(told, tmp_path)
    first = answers[0]
    for epochs, measured, batches, ended, frame in answers:
        assert epochs == first[0]
        assert measured == first[1]
        assert batches == 9
        assert ended == 1
        assert frame.equals(first[4])
        assert "grad_norm" in frame
        assert frame["lr"].iloc[-1] < 0.05
    assert (tmp_path / "ranks.txt").read_text() == "0\n"
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) == 4
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == ["epoch_0003.safetensors"]


def unfrozen():
    model = model_of()
    x, y = samples()
    model.net[0].requires_grad_(False)

    class Free(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.net[0].requires_grad_(epoch > 0)

    before = model.net[0].weight.clone()
    moved = []
    note = LambdaCallback(
        on_epoch_end=lambda epoch, logs: moved.append(not torch.equal(before, model.net[0].weight))
    )
    model.fit((x, y), epochs=2, batch_size=10, seed=3, verbose=0, callbacks=[Free(), note])
    return moved, [value.clone() for value in model.net.state_dict().values()]


def test_layers_that_are_freed_between_epochs_train_alike_in_all(two):
    (moved, weights), (_, others) = two.run(unfrozen)
    assert moved == [False, True]
    assert all(map(torch.equal, weights, others))


def test_the_folder_of_a_run_is_written_by_one(two, tmp_path):
    paths = two.run(saved, tmp_path / "run")
    assert paths[0] == paths[1]
    best = tmp_path / "run/best.safetensors"
    fresh = model_of()
    fresh.load_ckpt(best)
    x, y = samples()
    assert fresh.evaluate((x, y), verbose=0)["val_loss"] == paths[0]


def saved(folder):
    import pytest

    model = model_of()
    x, y = samples()
    model.fit((x, y), (x, y), 3, folder, batch_size=10, seed=3, verbose=0, plot=True)
    return pytest.approx(model.history.best["val_loss"], rel=1e-5)
