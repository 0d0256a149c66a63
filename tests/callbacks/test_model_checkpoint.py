"""Weights in files: which, when, and that each is what the net had then."""

import math
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, EpochCheckpoint, ModelCheckpoint

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model_of():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "sgd")


class Feeds(Callback):
    """Puts made-up figures into the logs, and keeps the weights of each epoch."""

    def __init__(self, values):
        self.values = values
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]
        self.weights.append(self.model.net.weight.detach().clone())


def saved(tmp_path, values, model=None, **options):
    feeds = Feeds(values)
    name = tmp_path / "{epoch:02d}-{val_loss:.1f}.safetensors"
    callback = ModelCheckpoint(name, **options)
    (model or model_of()).fit(
        (X, Y), (X, Y), epochs=len(values), verbose=0, callbacks=[feeds, callback]
    )
    names = sorted(path.name.removesuffix(".safetensors") for path in tmp_path.iterdir())
    return names, feeds, callback


def test_a_file_for_each_epoch_holds_its_weights(tmp_path):
    names, feeds, callback = saved(tmp_path, [3.0, 2.0, 4.0])
    assert names == ["01-3.0", "02-2.0", "03-4.0"]
    for name, weight in zip(names, feeds.weights, strict=True):
        assert torch.equal(load_file(tmp_path / f"{name}.safetensors")["weight"], weight)
    assert callback.saved == [str(tmp_path / f"{name}.safetensors") for name in names]


@pytest.mark.filterwarnings("ignore::fitorch.callbacks.NonFiniteMetricWarning")
def test_only_the_best_and_never_nan(tmp_path):
    values = [math.nan, 3.0, 4.0, math.nan, 2.0]
    assert saved(tmp_path, values, save_best_only=True)[0] == ["02-3.0", "05-2.0"]


def test_a_threshold_to_beat(tmp_path):
    names, *_ = saved(tmp_path, [3.0, 2.0, 1.0], save_best_only=True, initial_value_threshold=2.5)
    assert names == ["02-2.0", "03-1.0"]


@pytest.mark.filterwarnings("ignore::fitorch.callbacks.NonFiniteMetricWarning")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [("min", ["02-1.0", "05-2.0"]), ("max", ["04-9.0", "06-8.0"])],
)
def test_the_best_two(tmp_path, mode, expected):
    values = [5.0, 1.0, math.nan, 9.0, 2.0, 8.0]
    assert saved(tmp_path, values, save_top_k=2, mode=mode)[0] == expected


def test_a_second_fit_does_not_overwrite_a_better_file(tmp_path):
    path = tmp_path / "best.safetensors"
    callback = ModelCheckpoint(path, save_best_only=True)
    model = model_of()
    best = None
    for values in ([2.0, 1.0], [4.0, 3.0]):
        feeds = Feeds([None] * model.progress.epochs + values)
        model.fit((X, Y), (X, Y), epochs=2, verbose=0, callbacks=[feeds, callback])
        best = feeds.weights[1] if best is None else best
    assert torch.equal(load_file(path)["weight"], best)


def test_every_so_many_batches_over_the_epochs(tmp_path):
    model = model_of()
    callback = ModelCheckpoint(tmp_path / "{epoch}-{batch}.pt", save_freq=3)
    model.fit((X, Y), epochs=3, batch_size=10, verbose=0, callbacks=[callback])  # 4 batches each
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-3.pt", "2-2.pt", "3-1.pt", "3-4.pt"]
    state = torch.load(tmp_path / "3-4.pt", weights_only=True)
    assert torch.equal(state["weight"], model.net.weight)


def test_every_so_many_minutes(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Clock(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            now[0] += 20.0

    callback = ModelCheckpoint(tmp_path / "{batch}.safetensors", every_minutes=1)
    model_of().fit((X, Y), epochs=1, batch_size=5, verbose=0, callbacks=[Clock(), callback])
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["3", "6"]


def test_placeholders_are_checked_before_training(tmp_path):
    model = model_of()
    callback = ModelCheckpoint(tmp_path / "{val_mea:.2f}.safetensors")
    with pytest.raises(ValueError, match=r"'val_mea' \(did you mean 'val_mae'\?\)"):
        model.fit((X, Y), (X, Y), epochs=1, verbose=0, callbacks=[callback])
    assert len(model.history) == 0


def test_without_validation_every_epoch_is_saved_and_the_best_is_refused(tmp_path):
    model_of().fit(
        (X, Y), epochs=2, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{epoch}.pt")]
    )
    assert len(list(tmp_path.iterdir())) == 2
    best = ModelCheckpoint(tmp_path / "best.pt", save_best_only=True)
    with pytest.raises(ValueError, match="ModelCheckpoint monitors 'val_loss'"):
        model_of().fit((X, Y), epochs=1, verbose=0, callbacks=[best])


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").touch()
    model = model_of()
    with pytest.raises(OSError, match="file"):
        model.fit(
            (X, Y), epochs=1, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "file" / "a.pt")]
        )
    assert len(model.history) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filepath": "model.keras"}, "'model.keras'; expected one of the suffixes .safetensors"),
        ({"save_freq": 0}, "save_freq is 0"),
        ({"save_freq": "batch"}, "save_freq is 'batch'"),
        ({"save_top_k": 0}, "save_top_k is 0"),
        ({"every_n_steps": -1}, "every_n_steps is -1"),
        ({"every_minutes": 0}, "every_minutes is 0"),
        ({"save_best_only": True, "every_n_steps": 5}, "cannot be combined with"),
        ({"filepath": "{val_loss}.pt", "every_n_steps": 5}, "not measured within an epoch"),
    ],
)
def test_arguments_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        ModelCheckpoint(**({"filepath": "a.pt"} | options))


def test_epoch_checkpoints_keep_the_newest(tmp_path):
    model = model_of()
    folder = tmp_path / "weights"
    model.fit((X, Y), epochs=9, verbose=0, callbacks=[EpochCheckpoint(folder, 2, max_ckpt=3)])
    assert sorted(p.name for p in folder.iterdir()) == [
        f"epoch_{epoch:04d}.safetensors" for epoch in (4, 6, 8)
    ]


@pytest.mark.parametrize("options", [{"save_freq": 0}, {"max_ckpt": True}])
def test_epoch_checkpoints_refuse(options):
    with pytest.raises(ValueError, match="expected a number >= 1"):
        EpochCheckpoint(**options)
