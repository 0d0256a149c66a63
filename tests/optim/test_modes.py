"""Optimizers with two kinds of weights: schedule-free ones, against a loop by hand."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1, keepdim=True)
LIBRARIES = ["schedulefree", "pytorch_optimizer", "within several"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def optimizers(library, module):
    """Return what `KerasModel` gets, and the optimizers as a list."""
    if library == "pytorch_optimizer":
        kind = pytest.importorskip("pytorch_optimizer").ScheduleFreeAdamW
        made = kind(module.parameters(), lr=0.05)
        return made, [made]
    kind = pytest.importorskip("schedulefree").AdamWScheduleFree
    if library == "schedulefree":
        made = kind(module.parameters(), lr=0.05)
        return made, [made]
    made = [kind(module[0].parameters(), lr=0.05), torch.optim.SGD(module[2].parameters(), 0.05)]
    return made, made


def switch(members, mode):
    for member in members:
        if hasattr(member, mode):
            getattr(member, mode)()


def by_hand(library, epochs=3):
    module = net()
    _, members = optimizers(library, module)
    losses = []
    for _ in range(epochs):
        switch(members, "train")
        for begin in range(0, 60, 10):
            for member in members:
                member.zero_grad()
            nn.functional.mse_loss(module(X[begin : begin + 10]), Y[begin : begin + 10]).backward()
            for member in members:
                member.step()
        switch(members, "eval")
        with torch.no_grad():
            losses.append(nn.functional.mse_loss(module(X), Y).item())
    return module, losses


def fitted(library, **options):
    module = net()
    model = KerasModel(module, "mse", optimizer=optimizers(library, module)[0])
    given = {"epochs": 3, "batch_size": 10, "shuffle": False, "verbose": 0, **options}
    frame = model.fit((X, Y), (X, Y), **given)
    return model, frame


def same(left, right):
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("library", LIBRARIES)
def test_weights_and_figures_are_those_of_a_loop_that_switches(library):
    expected, losses = by_hand(library)
    model, frame = fitted(library)
    assert same(model.net, expected)
    assert frame["val_loss"].tolist() == pytest.approx(losses, rel=1e-12)


class Cut(Exception):
    """Raised in the middle of a fit."""


def cutting(hook, after):
    calls = []

    def cut(batch, logs):
        calls.append(batch)
        if len(calls) == after:
            raise Cut

    return LambdaCallback(**{hook: cut})


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "cut",
    [
        ("on_train_batch_end", 9),
        ("on_train_batch_end", 12),  # the last of an epoch, before its validation
        ("on_epoch_end", 2),
        ("on_test_batch_end", 2),
    ],
)
def test_a_resumed_run_ends_at_the_same_bits(library, cut, tmp_path):
    expected, losses = by_hand(library)
    options = {"ckpt_path": tmp_path, "save_every_n_steps": 4}
    with pytest.raises(Cut):
        fitted(library, callbacks=[cutting(*cut)], **options)
    resumed, frame = fitted(library, resume=True, **options)
    assert same(resumed.net, expected)
    assert frame["val_loss"].tolist() == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_callbacks_measure_and_save_are_the_averaged_weights(library, tmp_path):
    module = net()
    given, members = optimizers(library, module)
    model = KerasModel(module, "mse", optimizer=given)
    saved = {}

    def look(batch, logs):
        if saved:
            return
        saved["loss"] = model.evaluate((X, Y), verbose=0)["val_loss"]
        saved["predicted"] = model.predict(X, verbose=0)
        saved["file"] = load_file(model.save_ckpt(tmp_path / "a.safetensors"))

    options = {"epochs": 3, "batch_size": 10, "shuffle": False, "verbose": 0}
    callback = LambdaCallback(on_train_batch_end=look)
    model.fit((X, Y), (X, Y), callbacks=[callback], **options)
    expected, _ = by_hand(library)
    assert same(module, expected)  # looking changed no bit
    # After one update the averaged weights are those of an optimizer that stops there.
    alone = net()
    _, members = optimizers(library, alone)
    switch(members, "train")
    nn.functional.mse_loss(alone(X[:10]), Y[:10]).backward()
    for member in members:
        member.step()
    switch(members, "eval")
    with torch.no_grad():
        torch.testing.assert_close(saved["predicted"], alone(X), rtol=0, atol=0)
        assert saved["loss"] == pytest.approx(nn.functional.mse_loss(alone(X), Y).item(), rel=1e-12)
    for name, value in alone.state_dict().items():
        assert torch.equal(saved["file"][name], value)


def test_after_an_error_the_net_has_the_averaged_weights():
    library = "schedulefree"
    module = net()
    made, _ = optimizers(library, module)
    model = KerasModel(module, "mse", optimizer=made)
    options = {"epochs": 3, "batch_size": 10, "shuffle": False, "verbose": 0}
    with pytest.raises(Cut):
        model.fit((X, Y), callbacks=[cutting("on_train_batch_end", 9)], **options)
    assert made.param_groups[0]["train_mode"] is False


def test_a_stream_of_unknown_length_switches_too():
    library = "schedulefree"
    module = net()
    made, _ = optimizers(library, module)
    batches = DataLoader(TensorDataset(X, Y), 10)
    model = KerasModel(module, "mse", optimizer=made)
    frame = model.fit(iter_of(batches), (X, Y), epochs=3, verbose=0)
    expected, losses = by_hand(library)
    assert same(module, expected)
    assert frame["val_loss"].tolist() == pytest.approx(losses, rel=1e-12)


class iter_of:
    """An iterable of unknown length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)
