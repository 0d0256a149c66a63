"""Evaluations: random numbers of the global generators, and nets that differentiate."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import Callback, LambdaCallback

X = torch.linspace(-1, 1, 36).reshape(12, 3)
Y = X.sum(1, keepdim=True)


class Sampled(nn.Module):
    """Keeps its dropout on in eval mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(nn.functional.dropout(x, 0.5, training=True))


VERBS = {
    "predict": lambda model: model.predict(X, batch_size=5, verbose=0),
    "evaluate": lambda model: torch.tensor(model.evaluate((X, Y), verbose=0)["val_loss"]),
    "loader": lambda model: model.predict(DataLoader(TensorDataset(X, Y), 4), verbose=0),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_two_calls_in_a_row_draw_other_masks(verb):
    model = KerasModel(Sampled(), "mse")
    assert not torch.equal(verb(model), verb(model))


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_global_seed_makes_them_alike(verb):
    model = KerasModel(Sampled(), "mse")
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(verb(model))
    assert torch.equal(*results)


def test_masks_are_those_of_a_loop_by_hand():
    net = Sampled()
    torch.manual_seed(3)
    with torch.no_grad():
        expected = torch.cat([net(part) for part in X.split(5)])
    torch.manual_seed(3)
    result = KerasModel(net, "mse").predict(X, batch_size=5, verbose=0)
    assert torch.equal(result, expected)


def trained(**options):
    net = Sampled()
    model = KerasModel(net, "mse", None, "sgd")
    options = {"epochs": 3, "batch_size": 5, "seed": 1, "verbose": 0, **options}
    model.fit((X, Y), **options)
    return net.head.weight


class Evaluates(Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.predict(X, verbose=0)

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate((X, Y), verbose=0)


WITHIN = {
    "validation": {"val_data": (X, Y)},
    "a loader": {"val_data": DataLoader(TensorDataset(X, Y), 4, shuffle=True)},
    "callbacks": {"callbacks": [Evaluates()]},
    "hooks that draw": {
        "val_data": (X, Y),
        "callbacks": [LambdaCallback(on_test_end=lambda logs: torch.rand(3))],
    },
}


@pytest.mark.parametrize("options", WITHIN.values(), ids=WITHIN)
def test_training_does_not_depend_on_what_is_evaluated_within(options):
    assert torch.equal(trained(**options), trained())


class Forces(nn.Module):
    """Minus the gradient of an energy, with dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.dropout, self.calls = dropout, 0

    def forward(self, x):
        self.calls += 1
        x = nn.functional.dropout(x, self.dropout, training=True).requires_grad_()
        energy = self.energy(x).sum()
        return -torch.autograd.grad(energy, x, create_graph=True)[0]


def test_a_net_that_differentiates_is_measured_and_predicted():
    net = Forces()
    expected = net(X).detach()
    model = KerasModel(net, "mse", {"mae": "mae"})
    result = model.predict(X, batch_size=5, verbose=0)
    torch.testing.assert_close(result, expected)
    assert not result.requires_grad
    values = model.evaluate((X, X), batch_size=5, verbose=0)
    assert values["val_loss"] == pytest.approx((expected - X).square().mean().item())
    assert values["val_mae"] == pytest.approx((expected - X).abs().mean().item())


def test_it_validates_within_a_fit_with_the_same_training():
    alone, validated = Forces(), Forces()
    for net, data in ((alone, None), (validated, (X, X))):
        KerasModel(net, "mse", None, "sgd").fit((X, X), data, epochs=2, seed=0, verbose=0)
    assert all(map(torch.equal, alone.parameters(), validated.parameters()))
    assert all(p.grad is None or not p.grad.any() for p in validated.parameters())


def test_the_first_batch_decides_once_and_draws_once():
    net = Forces(dropout=0.5)
    torch.manual_seed(5)
    expected = torch.cat([net(part).detach() for part in X.split(4)])
    net.calls = 0
    torch.manual_seed(5)
    result = KerasModel(net, "mse").predict(X, batch_size=4, verbose=0)
    assert torch.equal(result, expected)
    assert net.calls == 3 + 1


def test_a_hook_may_differentiate_too():
    net = nn.Linear(3, 1)

    def forward(net, batch):
        x = batch[0].clone().requires_grad_()
        return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0], batch[1]

    model = KerasModel(net, "mse", forward=forward)
    values = model.evaluate((X, X), verbose=0)
    assert values["val_loss"] == pytest.approx((net.weight - X).square().mean().item(), rel=1e-5)


def test_other_nets_have_no_graph_in_evaluation():
    seen = []

    class Net(nn.Linear):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    model = KerasModel(Net(3, 1), "mse")
    model.predict(X, batch_size=4, verbose=0)
    model.evaluate((X, Y), batch_size=4, verbose=0)
    assert seen == [False] * 6


def test_where_gradients_do_not_help_the_message_does():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            with torch.no_grad():
                return torch.autograd.grad((x * self.weight).sum(), self.weight)[0]

    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        KerasModel(Detached(), "mse").predict(X, verbose=0)
    assert "torch.enable_grad()" in "".join(caught.value.__notes__)


def test_unlabelled_data_with_a_hook_for_targets():
    hook = lambda net, batch: (net(batch[0]), batch[1])  # noqa: E731
    model = KerasModel(nn.Linear(3, 1), "mse", forward=hook)
    with pytest.raises(IndexError) as caught:
        model.predict(X, verbose=0)
    assert "predict((x, y))" in "".join(caught.value.__notes__)
    expected = model.net(X).detach()
    assert torch.equal(model.predict((X, Y), verbose=0), expected)
    optional = lambda net, batch: (net(batch[0]), None)  # noqa: E731
    again = KerasModel(copy.deepcopy(model.net), "mse", forward=optional)
    assert torch.equal(again.predict(X, verbose=0), expected)


def test_a_hook_that_returns_predictions_alone_is_refused():
    model = KerasModel(nn.Linear(3, 1), "mse", forward=lambda net, batch: net(batch[0]))
    with pytest.raises(ValueError, match=r"forward\(net, batch\) must return"):
        model.predict((X, Y), verbose=0)
