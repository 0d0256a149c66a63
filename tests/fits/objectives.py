"""Data, nets and objectives that tests of objectives in `fit` share."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.data.sampling import Order
from fitorch.losses import L1, L2, FocalLoss, term
from tolerances import FLOAT64

SAMPLES, EPOCHS, ALPHA = 50, 3, 1e-3  # batches of 7 leave a last one of 1
GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(SAMPLES, 4, generator=GENERATOR, dtype=torch.float64)
Y = (X.sum(1, keepdim=True) > 0).double()
CLASSES = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
SOME = CLASSES.where(torch.arange(SAMPLES) % 3 > 0, -100)  # a third is ignored
WEIGHT = torch.linspace(0, 3, SAMPLES, dtype=torch.float64)
CLASS_WEIGHT = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def make_net(outputs=1):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def close(value, rel=1e-9):
    number = value.item() if isinstance(value, torch.Tensor) else value
    return pytest.approx(number, rel=rel, abs=1e-14)


def assert_same(net, expected, exactly=False):
    tolerance = {"rtol": 0, "atol": 0} if exactly else FLOAT64
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


# The terms by hand: (net, x, y, w) to the batch's loss and what it counts in the epoch's mean.


def mean(losses, w):
    """The mean of losses per sample, and its share."""
    w = torch.ones(len(losses), dtype=losses.dtype) if w is None else w
    return (losses * w).sum() / w.sum().clamp_min(1e-300), w.sum()


def focal(net, x, y, w):
    """The focal loss as the seeds write it."""
    p = net(x).sigmoid()
    p_t = y * p + (1 - y) * (1 - p)
    alpha = y * 0.75 + (1 - y) * 0.25
    losses = alpha * (1 - p_t) ** 2 * F.binary_cross_entropy(p, y, reduction="none")
    return mean(losses.squeeze(1), w)


def squares_summed(net, x, y, w):
    return (net(x) - y).square().sum(), len(x)


def weights_of(net):
    return [net[0].weight, net[2].weight]


def l1(net, x, y, w):
    return ALPHA * sum(weight.abs().sum() for weight in weights_of(net)), total_weight(x, w)


def l2(net, x, y, w):
    return 0.5 * ALPHA * sum(weight.square().sum() for weight in weights_of(net)), total_weight(
        x, w
    )


def total_weight(x, w):
    return len(x) if w is None else w.sum()


def cross_entropy(net, x, y, w):
    return F.cross_entropy(net(x), y, CLASS_WEIGHT), CLASS_WEIGHT[y[y >= 0]].sum()


def brier(net, x, y, w):
    return 0.5 * F.mse_loss(net(x).softmax(1), F.one_hot(y.clamp_min(0), 3).double()), len(x)


def brier_loss(y_pred, y_true):
    return F.mse_loss(y_pred.softmax(1), F.one_hot(y_true.clamp_min(0), 3).to(y_pred.dtype))


def l2_beside_classes(net, x, y, w):
    return l2(net, x, y, w)[0], cross_entropy(net, x, y, w)[1]


BINARY = FocalLoss(from_logits=True) + ALPHA * L2() + ALPHA * L1()
TWO_SHARES = (
    term(nn.CrossEntropyLoss(CLASS_WEIGHT), name="ce")
    + 0.5 * term(brier_loss, name="brier")
    + L2(ALPHA)
)
SHARING = {"ce": cross_entropy, "brier": brier, "l2": l2_beside_classes}
SUMMED = term(nn.MSELoss(reduction="sum"), name="squares") + ALPHA * L2()
CASES = {
    # objective, outputs of the net, targets, sample weights, class weights, terms by hand
    "plain": (BINARY, 1, Y, None, None, {"focal": focal, "l2": l2, "l1": l1}),
    "sample weights": (BINARY, 1, Y, WEIGHT, None, {"focal": focal, "l2": l2, "l1": l1}),
    "class weights": (BINARY, 1, Y, None, {1: 3.0}, {"focal": focal, "l2": l2, "l1": l1}),
    "two shares": (TWO_SHARES, 3, CLASSES, None, None, SHARING),
    "ignored targets": (TWO_SHARES, 3, SOME, None, None, SHARING),
    "a sum": (SUMMED, 1, Y, None, None, {"squares": squares_summed, "l2": l2}),
}
SUMS = {squares_summed}


def figure(values, shares, term):
    """The epoch's mean of a term: over samples, by weight, or what torch's own mean divides by."""
    if term in SUMS:
        return sum(values) / sum(shares)
    return sum(v * s for v, s in zip(values, shares, strict=True) if s) / sum(shares)


def by_hand(net, terms, batches, optimizer, epochs=EPOCHS, window=1):
    """Train on the sum of `terms`; return the figures of each epoch.

    `batches` gives lists of (x, y, w) for an epoch; with a window every so many of them, joined,
    make one update.
    """
    rows = []
    for epoch in range(epochs):
        seen = {name: ([], []) for name in terms}
        for x, y, w in batches(epoch):
            optimizer.zero_grad()
            parts = {name: each(net, x, y, w) for name, each in terms.items()}
            sum(value for value, _ in parts.values()).backward()
            optimizer.step()
            for name, (value, share) in parts.items():
                seen[name][0].append(value.item())
                seen[name][1].append(float(share))
        rows.append({name: figure(*seen[name], terms[name]) for name in terms})
    return rows


def in_order(size, *tensors):
    """All batches of `size`, in the order of the seed 5; None stands for no weights."""
    order = Order(SAMPLES, size, shuffle=True, seed=5)

    def batches(epoch):
        for index in order.batches(epoch):
            yield tuple(None if tensor is None else tensor[index] for tensor in tensors)

    return batches


def model_of(objective=BINARY, net=None, metrics=None, optimizer=SGD):
    return KerasModel(net or make_net(), objective, metrics, optimizer)


def fit(model, epochs=EPOCHS, **options):
    return model.fit((X, Y), (X, Y), **{"epochs": epochs, "seed": 5, "verbose": 0, **options})


class Logs(Callback):
    def __init__(self):
        self.batches, self.tests, self.epochs = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(dict(logs))

    def on_test_batch_end(self, batch, logs=None):
        self.tests.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def ramp(epoch):
    return 0.25 * epoch
