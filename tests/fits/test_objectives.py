"""An objective of several terms in `fit`: weights and figures are those of a loop by hand."""

import copy
import functools
import math
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import Callback
from fitorch.losses import L1, L2, FocalLoss, Penalty
from fitorch.metrics.mean import DeviceMean
from fits.objectives import (
    ALPHA,
    BINARY,
    CASES,
    CLASSES,
    EPOCHS,
    SAMPLES,
    SGD,
    SUMS,
    WEIGHT,
    Logs,
    X,
    Y,
    assert_same,
    by_hand,
    close,
    fit,
    focal,
    in_order,
    l1,
    l2,
    make_net,
    model_of,
    ramp,
    weights_of,
)
from tolerances import FLOAT64

RUNS = [(name, size) for name in CASES for size in (1, 7, 64)]
RUNS.remove(("ignored targets", 1))  # torch's mean over ignored targets alone is NaN
EVERY = pytest.mark.parametrize(("name", "size"), RUNS)


@functools.cache
def fitted(name, size):
    """Train by `fit` and by hand; return the history, the figures by hand, and both nets."""
    objective, outputs, y, weight, class_weight, terms = CASES[name]
    net, expected = make_net(outputs), make_net(outputs)
    w = weight
    if class_weight is not None:
        w = torch.where(y[:, 0] == 1, class_weight[1], 1.0)
    lr = 1e-3 if name == "a sum" else 0.1
    model = KerasModel(net, objective, optimizer=functools.partial(SGD, lr=lr))
    data = (X, y) if weight is None else (X, y, weight)
    frame = model.fit(
        data,
        data,
        epochs=EPOCHS,
        batch_size=size,
        class_weight=class_weight,
        seed=5,
        verbose=0,
    )
    rows = by_hand(expected, terms, in_order(size, X, y, w), SGD(expected.parameters(), lr=lr))
    return frame, rows, net, expected


@EVERY
def test_the_columns_add_up_to_the_loss(name, size):
    frame, *_ = fitted(name, size)
    for stage in ("train", "val"):
        total = sum(frame[f"{stage}_{column}"] for column in CASES[name][-1])
        assert frame[f"{stage}_loss"].tolist() == pytest.approx(total.tolist(), rel=1e-12)


@EVERY
def test_the_weights_are_those_of_a_loop_by_hand(name, size):
    _, _, net, expected = fitted(name, size)
    assert_same(net, expected)


@EVERY
def test_the_training_figures_are_those_of_a_loop_by_hand(name, size):
    frame, rows, *_ = fitted(name, size)
    for column in CASES[name][-1]:
        assert frame[f"train_{column}"].tolist() == [close(row[column]) for row in rows]


@EVERY
def test_the_validation_figures_are_those_of_all_samples_at_once(name, size):
    frame, _, net, _ = fitted(name, size)
    _, _, y, weight, _, terms = CASES[name]
    with torch.no_grad():
        for column, each in terms.items():
            value, share = each(net, X, y, weight)
            value = value / share if each in SUMS else value
            assert frame[f"val_{column}"].iloc[-1] == close(value)


# Accumulation


def windowed(size, window, *tensors):
    """Batches that are each all samples of a window of `window` batches."""
    return in_order(size * window, *tensors)


@pytest.mark.parametrize(("size", "window"), [(8, 3), (7, 2), (50, 2)])
@pytest.mark.parametrize("name", CASES)
def test_accumulating_is_training_on_the_windows_samples_at_once(name, size, window):
    objective, outputs, y, weight, class_weight, terms = CASES[name]
    net, expected = make_net(outputs), make_net(outputs)
    w = weight
    if class_weight is not None:
        w = torch.where(y[:, 0] == 1, class_weight[1], 1.0)
    lr = 1e-3 if name == "a sum" else 0.1
    by_hand(expected, terms, windowed(size, window, X, y, w), SGD(expected.parameters(), lr=lr))
    KerasModel(net, objective, optimizer=functools.partial(SGD, lr=lr)).fit(
        (X, y) if weight is None else (X, y, weight),
        epochs=EPOCHS,
        batch_size=size,
        class_weight=class_weight,
        gradient_accumulation_steps=window,
        seed=5,
        verbose=0,
    )
    assert_same(net, expected)


def test_a_penalty_enters_each_update_once_and_in_full():
    net = make_net()
    before = [weight.detach().clone() for weight in weights_of(net)]

    def nothing(y_pred, y_true):
        return 0 * y_pred.sum()

    model = KerasModel(net, nothing + L2(0.5), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    model.fit((X, Y), epochs=1, batch_size=8, gradient_accumulation_steps=3, verbose=0)
    assert model.progress.updates == 3  # windows of 3, 3 and 1 batches
    for weight, start in zip(weights_of(net), before, strict=True):
        torch.testing.assert_close(weight, start * (1 - 0.1 * 0.5) ** 3, rtol=1e-12, atol=0)


@pytest.mark.parametrize("window", [1, 3])
def test_gradients_are_clipped_with_those_of_the_penalties(window):
    net, expected = make_net(), make_net()
    objective = BINARY + L2(5.0).named("strong")

    def strong(net, x, y, w):
        return 5.0 / ALPHA * l2(net, x, y, w)[0], len(x)

    optimizer = SGD(expected.parameters())

    def clip(*_):
        nn.utils.clip_grad_norm_(expected.parameters(), 0.5)

    optimizer.register_step_pre_hook(clip)
    terms = {"focal": focal, "l2": l2, "l1": l1, "strong": strong}
    by_hand(expected, terms, in_order(8 * window, X, Y, None), optimizer)
    KerasModel(net, objective, optimizer=SGD).fit(
        (X, Y),
        epochs=EPOCHS,
        batch_size=8,
        gradient_accumulation_steps=window,
        clip_grad_norm=0.5,
        seed=5,
        verbose=0,
    )
    assert_same(net, expected)


@pytest.mark.parametrize("window", [1, 2])
def test_an_objective_trains_in_bf16(window):
    net, expected = make_net().float(), make_net().float()
    data = [tensor.float() for tensor in (X, Y)]
    KerasModel(net, BINARY, optimizer=SGD).fit(
        tuple(data),
        epochs=EPOCHS,
        batch_size=8,
        mixed_precision="bf16",
        gradient_accumulation_steps=window,
        seed=5,
        verbose=0,
    )
    optimizer = SGD(expected.parameters())
    for epoch in range(EPOCHS):
        for x, y in in_order(8 * window, *data)(epoch):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = expected(x)
            loss = FocalLoss(from_logits=True)(logits.float(), y)
            (loss + l2(expected, x, y, None)[0] + l1(expected, x, y, None)[0]).backward()
            optimizer.step()
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
    assert net[0].weight.dtype == torch.float32
    torch.testing.assert_close(
        KerasModel(net, BINARY).evaluate(tuple(data), verbose=0)["val_l2"],
        l2(net, *data, None)[0].item(),
    )


def test_the_weights_last_gradient_holds_the_penalty():
    class Looks(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.gradient = self.model.net[0].weight.grad.clone()

    net, looks = make_net(), Looks()
    KerasModel(net, BINARY, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)).fit(
        (X, Y), epochs=1, batch_size=SAMPLES, callbacks=[looks], verbose=0
    )
    value = sum(each(net, X, Y, None)[0] for each in (focal, l2, l1))
    (expected,) = torch.autograd.grad(value, net[0].weight)
    torch.testing.assert_close(looks.gradient, expected, **FLOAT64)


def test_parameters_that_the_loss_does_not_reach_are_penalized():
    net = make_net()
    net.add_module("idle", nn.Linear(2, 2, dtype=torch.float64))
    net.forward = types.MethodType(lambda self, x: self[2](self[1](self[0](x))), net)
    before = net.idle.weight.detach().clone()
    KerasModel(net, "mse" + L2(0.5), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)).fit(
        (X, Y), epochs=1, batch_size=25, verbose=0
    )
    torch.testing.assert_close(net.idle.weight, before * 0.95**2, rtol=1e-12, atol=0)


class Nuclear(Penalty):
    """The sum of the weights' singular values."""

    def value(self, weights):
        return sum(torch.linalg.matrix_norm(weight, "nuc") for weight in weights)


@pytest.mark.parametrize("window", [1, 3])
def test_a_penalty_of_ones_own_is_trained_on(window):
    def nuclear(net, x, y, w):
        return 0.01 * Nuclear().value(weights_of(net)), len(x)

    net, expected = make_net(), make_net()
    model = KerasModel(net, FocalLoss(from_logits=True) + 0.01 * Nuclear(), optimizer=SGD)
    frame = model.fit(
        (X, Y),
        epochs=EPOCHS,
        batch_size=8,
        gradient_accumulation_steps=window,
        seed=5,
        verbose=0,
    )
    terms = {"focal": focal, "nuclear": nuclear}
    rows = by_hand(expected, terms, in_order(8 * window, X, Y, None), SGD(expected.parameters()))
    assert_same(net, expected)
    assert frame["train_nuclear"].tolist() == [close(row["nuclear"]) for row in rows]


def test_a_batch_of_ignored_targets_changes_nothing():
    classes = CLASSES.clone()
    classes[8:16] = -100  # torch's mean over nothing is NaN, and its gradient is 0
    net, by_hand = make_net(3), make_net(3)
    by_hand.load_state_dict(net.state_dict())
    loss_fn, optimizer = nn.CrossEntropyLoss(), SGD(by_hand.parameters())
    losses = []
    for start in range(0, SAMPLES, 8):
        optimizer.zero_grad()
        loss = loss_fn(by_hand(X[start : start + 8]), classes[start : start + 8])
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * (classes[start : start + 8] >= 0).sum().item())
    model = KerasModel(net, loss_fn, optimizer=SGD)
    frame = model.fit((X, classes), epochs=1, batch_size=8, shuffle=False, verbose=0)
    assert_same(net, by_hand)
    expected = sum(value for value in losses if value == value) / (classes >= 0).sum().item()
    assert frame["train_loss"].item() == pytest.approx(expected)


def test_a_term_without_anything_to_count_leaves_the_loss_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, x):
            return {"first": self.net(x), "second": self.net(2 * x)}

    some, none = torch.ones(SAMPLES), torch.zeros(SAMPLES)
    none[-1] = 1  # in the last batch of an epoch
    seen, model = Logs(), KerasModel(Twice(), {"first": "mse", "second": nn.MSELoss()})
    data = ({"x": X}, {"first": Y, "second": Y}, {"first": some, "second": none})
    frame = model.fit(
        data, data, epochs=1, batch_size=10, shuffle=False, callbacks=[seen], verbose=0
    )
    for logs in (*seen.batches[:4], *seen.tests[:4]):
        total, first, second = logs.values()
        assert total == first
        assert math.isnan(second)
    assert frame["train_loss"][0] == close(frame["train_first"][0] + frame["train_second"][0])


@pytest.fixture
def accelerated(monkeypatch):
    """Means that are read at the end of an epoch, as on an accelerator."""
    monkeypatch.setattr("fitorch.metrics.means.mean_on", lambda _, **options: DeviceMean(**options))
    monkeypatch.setattr("fitorch.optim.update._in_host_memory", lambda parameter: False)


@EVERY
def test_an_accelerator_gives_the_same_figures(name, size, accelerated):
    expected, *_ = fitted(name, size)
    objective, outputs, y, weight, class_weight, _ = CASES[name]
    data = (X, y) if weight is None else (X, y, weight)
    lr = 1e-3 if name == "a sum" else 0.1
    model = KerasModel(make_net(outputs), objective, optimizer=functools.partial(SGD, lr=lr))
    frame = model.fit(
        data, data, epochs=EPOCHS, batch_size=size, class_weight=class_weight, seed=5, verbose=0
    )
    figures = list(expected)[:-1]
    assert list(frame)[:-1] == figures
    assert frame[figures].to_numpy() == pytest.approx(expected[figures].to_numpy(), rel=1e-12)


def test_an_accelerator_names_the_term_that_is_not_finite_after_the_epoch(accelerated):
    x = X.clone()
    x[3] = math.nan
    message = r"\(focal \+ l2 \+ l1\) is nan: focal is nan in epoch 1, training batch 1 \(after 2"
    with pytest.raises(NonFiniteError, match=message):
        KerasModel(make_net(), BINARY, optimizer=SGD).fit(
            (x, Y), epochs=2, shuffle=False, verbose=0
        )


# One objective, several nets


def test_an_objective_serves_a_second_net_as_the_first():
    nets = [make_net(), nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.Linear(3, 1)).double()]
    fresh = copy.deepcopy(nets)
    for net in nets:
        fit(KerasModel(net, BINARY, optimizer=SGD))
    for net in fresh:
        objective = FocalLoss(from_logits=True) + ALPHA * L2() + ALPHA * L1()
        fit(KerasModel(net, objective, optimizer=SGD))
    for net, expected in zip(nets, fresh, strict=True):
        assert_same(net, expected, exactly=True)


def test_two_models_that_share_an_objective_do_not_disturb_each_other():
    shared = FocalLoss(from_logits=True) + ramp * L2()
    apart = [FocalLoss(from_logits=True) + ramp * L2() for _ in range(2)]
    torch.manual_seed(3)
    start = [make_net(), nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.Linear(3, 1)).double()]
    nets, fresh = copy.deepcopy(start), copy.deepcopy(start)
    models = [KerasModel(net, shared, optimizer=SGD) for net in nets]
    fit(models[0], epochs=1)
    for _ in range(2):
        for model in models:
            fit(model, epochs=1)
    alone = [
        KerasModel(net, objective, optimizer=SGD)
        for net, objective in zip(fresh, apart, strict=True)
    ]
    for model in (alone[0], alone[0], alone[0], alone[1], alone[1]):
        fit(model, epochs=1)
    for model, expected in zip(models, alone, strict=True):
        figures = ["l2_weight", "train_l2", "val_focal"]
        assert model.history.frame[figures].equals(expected.history.frame[figures])
    for net, expected in zip(nets, fresh, strict=True):
        assert_same(net, expected, exactly=True)


def test_what_a_callback_freezes_is_not_penalized_from_that_epoch_on():
    class Freezes(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.net[0].requires_grad_(epoch != 1)

    net = make_net()
    frame = fit(model_of(net=net), callbacks=[Freezes()])
    part = frame["val_l2"] / (0.5 * ALPHA)
    assert part[2] == close(sum(weight.square().sum() for weight in weights_of(net)))

    net = make_net()
    frame = fit(model_of(net=net), epochs=2, callbacks=[Freezes()])
    assert frame["val_l2"][1] == close(0.5 * ALPHA * net[2].weight.square().sum())
    assert frame["val_l1"][1] == close(ALPHA * net[2].weight.abs().sum())


def test_what_a_callback_freezes_as_a_whole_is_a_penalty_of_nothing():
    class Freezes(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.net[0].requires_grad_(False)
                self.model.net[2].weight.requires_grad_(False)

    frame = fit(model_of(), callbacks=[Freezes()])
    assert frame["train_l2"].tolist()[1:] == [0, 0]
    assert frame["val_l1"].tolist()[1:] == [0, 0]


def test_lazy_layers_are_penalized_once_they_have_weights():
    net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1))
    frame = KerasModel(net, BINARY).fit((X.float(), Y.float()), epochs=2, verbose=0)
    assert frame["train_l2"].iloc[-1] > 0


@pytest.mark.slow
def test_a_compiled_net_trains_the_same_weights():
    net, expected = make_net(), make_net()
    compiled = torch.compile(net, backend="aot_eager")
    frames = [fit(KerasModel(each, BINARY, optimizer=SGD)) for each in (compiled, expected)]
    assert_same(net, expected)
    for name in ("train_loss", "train_l1", "val_focal", "val_l2"):
        assert frames[0][name].tolist() == pytest.approx(frames[1][name].tolist(), rel=1e-6)


def test_a_compiled_net_is_penalized_by_the_names_that_its_user_knows():
    net = make_net()
    compiled = torch.compile(net, backend="eager")
    scores = KerasModel(compiled, "mse" + L2(ALPHA, include="0")).evaluate((X, Y), verbose=0)
    squares = net[0].weight.square().sum() + net[0].bias.square().sum()
    assert scores["val_l2"] == close(0.5 * ALPHA * squares)


def test_a_loss_that_a_callback_changes_is_changed_with_sample_weights_too():
    class Sharpens(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            loss_fn.gamma = 2.0 if epoch else 0.0

    loss_fn = FocalLoss(gamma=2.0, from_logits=True)
    net, expected = make_net(), make_net()
    model = KerasModel(net, loss_fn + L2(ALPHA), optimizer=SGD)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "callbacks": [Sharpens()]}
    model.fit((X, Y, WEIGHT), epochs=2, **options)
    optimizer = SGD(expected.parameters())
    for epoch in range(2):
        for at in torch.arange(SAMPLES).split(8):
            x, y, w = X[at], Y[at], WEIGHT[at]
            p = expected(x).sigmoid()
            missed = (y - p).abs() ** (2.0 if epoch else 0.0)
            losses = missed * F.binary_cross_entropy(p, y, reduction="none")
            losses = losses * (0.25 + 0.5 * y)
            optimizer.zero_grad()
            ((losses.squeeze(1) * w).sum() / w.sum() + l2(expected, x, y, w)[0]).backward()
            optimizer.step()
    assert_same(net, expected)
    assert loss_fn.reduction == "mean"


def test_a_loader_gives_the_same_as_tensors():
    nets = [make_net(), make_net()]
    loader = DataLoader(
        TensorDataset(X, Y),
        8,
        collate_fn=lambda samples: tuple(
            torch.stack(column) for column in zip(*samples, strict=True)
        ),
    )
    frames = [
        KerasModel(nets[0], BINARY, optimizer=SGD).fit(loader, loader, epochs=2, verbose=0),
        fit(KerasModel(nets[1], BINARY, optimizer=SGD), epochs=2, batch_size=8, shuffle=False),
    ]
    for name in ("train_focal", "train_l2", "val_l1"):
        assert frames[0][name].tolist() == pytest.approx(frames[1][name].tolist(), rel=1e-9)
