"""Fits on readers of other libraries, the loop by hand, and a fit that is cut and resumed."""

import warnings
from contextlib import suppress

import pytest
import torch
from torch import nn

from fitorch import KerasModel, NotBitExactWarning
from fitorch.callbacks import Callback

N, SIZE = 22, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR)
Y = torch.randn(N, 1, generator=GENERATOR)
SAME_BITS, WARNED = "the same bits", "a warning"


class Seen(nn.Module):
    """A linear net that notes the shapes of the batches that it trains on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 1)
        self.shapes = []

    def forward(self, x):
        if self.training:
            self.shapes.append(tuple(x.shape))
        return self.linear(x)


class Cut(Exception):
    """Ends a fit as a crash does."""


class CutAfter(Callback):
    def __init__(self, updates):
        self.left = updates

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise Cut


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def make_model(forward=None, net=None):
    return KerasModel(net or Seen(), "mse", optimizer=sgd, forward=forward)


def fit(data, val_data=None, epochs=2, forward=None, net=None, **arguments):
    """Return the model after a fit, and its history without the times."""
    model = make_model(forward, net)
    settings = {"batch_size": SIZE, "shuffle": False, "verbose": 0, "seed": 3, **arguments}
    frame = model.fit(data, val_data, epochs, **settings)
    return model, frame.drop(columns="seconds")


def by_hand(passes, forward=None, net=None):
    """Return the net after a loop over passes of (x, y) batches, and the mean loss of each."""
    net, means = net or Seen(), []
    forward = forward or (lambda net, batch: (net(batch[0]), batch[1]))
    optimizer = sgd(net.parameters())
    for batches in passes:
        total = samples = 0
        for batch in batches:
            optimizer.zero_grad()
            prediction, target = forward(net, batch)
            loss = nn.functional.mse_loss(prediction, target)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(target)
            samples += len(target)
        means.append(total / samples)
    return net, means


def assert_trains_as(passes, data, net=None, hand=None, forward=None, **arguments):
    """Compare a fit with a loop by hand: figures, batches that the net sees, and weights.

    Args:
        passes: For each epoch, the batches that the loop by hand trains on.
        data: What fit gets.
        net: Makes the net of both; None for `Seen`.
        hand: What the loop by hand computes of a net and a batch.
        forward: The argument of KerasModel.
        arguments: Further arguments of fit.
    """
    make = net or Seen
    model, frame = fit(data, None, len(passes), forward, make(), **arguments)
    expected, means = by_hand(passes, hand or forward, make())
    assert model.net.shapes == expected.shapes
    assert frame["train_loss"].tolist() == pytest.approx(means, rel=1e-5)
    for ours, theirs in zip(model.net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def pairs(x=X, y=Y, size=SIZE):
    """Return the batches of a pass in the order of the samples."""
    return list(zip(x.split(size), y.split(size), strict=True))


def resumed(make, folder, cut=9, **arguments):
    """Return how a fit ends that is cut after some updates and resumed: `SAME_BITS` or `WARNED`.

    A fit that neither ends with the same bits nor warns is an error.
    """
    make_net = arguments.pop("net", Seen)
    # Few checkpoints: writing them takes more time than the training.
    settings = {"epochs": 3, "save_every_n_steps": cut, **arguments}
    whole, frame = fit(make(), net=make_net(), ckpt_path=folder / "whole", **settings)
    settings["ckpt_path"] = folder / "cut"
    with suppress(Cut):
        fit(make(), net=make_net(), callbacks=[CutAfter(cut)], **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotBitExactWarning)
        model, after = fit(make(), net=make_net(), resume=True, **settings)
    if any(issubclass(warning.category, NotBitExactWarning) for warning in caught):
        return WARNED
    updates = whole.progress.updates
    assert len(model.net.shapes) == updates - cut, "the fit was not resumed where it was cut"
    assert frame.equals(after)
    for ours, theirs in zip(model.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    return SAME_BITS
