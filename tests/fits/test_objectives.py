"""An objective of several terms in `fit`: weights and columns are those of a loop by hand."""

import copy
import functools
import io
import math
import types

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import Callback, EarlyStopping, Progress
from fitorch.data.sampling import Order
from fitorch.losses import L1, L2, FocalLoss, Penalty, term
from fitorch.metrics.mean import DeviceMean
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
RUNS = [(name, size) for name in CASES for size in (1, 7, 64)]
RUNS.remove(("ignored targets", 1))  # torch's mean over ignored targets alone is NaN
EVERY = pytest.mark.parametrize(("name", "size"), RUNS)


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


def model_of(objective=BINARY, net=None, metrics=None, optimizer=SGD):
    return KerasModel(net or make_net(), objective, metrics, optimizer)


def fit(model, epochs=EPOCHS, **options):
    return model.fit((X, Y), (X, Y), **{"epochs": epochs, "seed": 5, "verbose": 0, **options})


def test_metrics_stand_before_the_terms_and_training_before_validation():
    frame = fit(model_of(metrics={"acc": "acc"}))
    assert list(frame) == [
        "epoch",
        *("train_loss", "train_acc", "train_focal", "train_l2", "train_l1"),
        "lr",
        *("val_loss", "val_acc", "val_focal", "val_l2", "val_l1"),
        "seconds",
    ]


def test_losses_stand_before_penalties_however_the_formula_is_written():
    frame = fit(model_of(L1(ALPHA) + FocalLoss(from_logits=True) + L2(ALPHA) + term("mse")))
    columns = [name for name in frame if name.startswith("train_")]
    assert columns == ["train_loss", "train_focal", "train_mse", "train_l1", "train_l2"]


@pytest.mark.parametrize("objective", ["mse", nn.MSELoss(), 0.5 * term("mse"), {0: nn.MSELoss()}])
def test_a_single_loss_has_no_columns_of_its_own(objective):
    class Only(nn.Sequential):
        def forward(self, x):
            return [super().forward(x)] if isinstance(objective, dict) else super().forward(x)

    model = KerasModel(Only(*make_net()), objective)
    y = [Y] if isinstance(objective, dict) else Y
    frame = model.fit((X, y), (X, y), epochs=1, verbose=0)
    assert list(frame) == ["epoch", "train_loss", "lr", "val_loss", "seconds"]


def test_a_term_that_has_a_metrics_name_is_called_a_loss():
    frame = fit(model_of(term("mse") + 0.1 * L2(), metrics={"mse": "mse"}))
    assert {"train_mse", "train_mse_loss", "val_mse", "val_mse_loss", "val_l2"} <= set(frame)
    assert frame["val_mse"].tolist() == pytest.approx(frame["val_mse_loss"].tolist(), rel=1e-5)


def test_evaluate_gives_every_term():
    model = model_of(metrics={"acc": "acc"})
    frame = fit(model)
    scores = model.evaluate((X, Y), batch_size=7, verbose=0)
    assert list(scores) == ["val_loss", "val_acc", "val_focal", "val_l2", "val_l1"]
    assert scores == {name: close(frame[name].iloc[-1]) for name in scores}


def test_evaluate_needs_no_fit_before():
    net = make_net()
    scores = KerasModel(net, BINARY).evaluate((X, Y), verbose=0)
    for name, each in CASES["plain"][-1].items():
        assert scores[f"val_{name}"] == close(each(net, X, Y, None)[0])


def test_where_nothing_is_validated_there_are_only_training_columns():
    frame = model_of().fit((X, Y), epochs=2, verbose=0)
    assert [name for name in frame if name.startswith("val_")] == []
    frame = fit(model_of(), validation_freq=2)
    assert frame["val_l1"].isna().tolist() == [True, False, True]


class Logs(Callback):
    def __init__(self):
        self.batches, self.tests, self.epochs = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(dict(logs))

    def on_test_batch_end(self, batch, logs=None):
        self.tests.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def test_callbacks_see_the_terms_of_batches_and_epochs():
    seen = Logs()
    frame = fit(model_of(), epochs=2, batch_size=25, callbacks=[seen])
    assert [list(logs) for logs in seen.batches] == [
        ["train_loss", "train_focal", "train_l2", "train_l1"]
    ] * 4
    assert list(seen.tests[0]) == ["val_loss", "val_focal", "val_l2", "val_l1"]
    for logs in (*seen.batches, *seen.tests):
        total, *terms = logs.values()
        assert total == close(sum(terms))
    for epoch in range(2):
        row = frame.iloc[epoch]
        assert seen.epochs[epoch] == {name: row[name] for name in seen.epochs[epoch]}
        assert seen.batches[2 * epoch + 1]["train_l1"] == row["train_l1"]


def test_terms_have_keras_names_too():
    class Reads(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.running = logs["focal"]

        def on_epoch_end(self, epoch, logs=None):
            self.figure = logs["focal"]

    reads = Reads()
    frame = fit(model_of(), epochs=1, callbacks=[reads])
    assert reads.running == reads.figure == frame["train_focal"][0]


def test_a_term_can_be_monitored_and_less_is_better():
    model = model_of(ALPHA * L1() + FocalLoss(from_logits=True))
    stopping = EarlyStopping("val_l1")
    frame = fit(model, 9, monitor="val_l1", patience=2, callbacks=[stopping])
    assert (model.history.monitor, model.history.mode) == ("val_l1", "min")
    assert stopping.watched.mode == "min"
    assert model.history.best["val_l1"] == frame["val_l1"].min()
    assert model.evaluate((X, Y), verbose=0)["val_l1"] == close(frame["val_l1"].min())


def test_patience_counts_epochs_without_a_better_term():
    still = model_of(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    assert len(fit(still, 9, monitor="l2", patience=2)) == 3


@pytest.mark.parametrize("wrong", ["val_l3", "val_focal_loss", "val_loss_focal", "train_l1_2"])
def test_an_unknown_term_as_monitor_lists_those_there_are_before_training(wrong):
    model = model_of()
    with pytest.raises(ValueError, match=rf"'{wrong}' \(did you mean '.*'val_focal'"):
        fit(model, monitor=wrong)
    with pytest.raises(ValueError, match=f"EarlyStopping monitors '{wrong}'"):
        fit(model, callbacks=[EarlyStopping(wrong, mode="min")])
    assert model.progress.updates == 0


def test_progress_prints_the_terms_in_a_file():
    file = io.StringIO()
    progress = Progress(console=Console(file=file, force_terminal=False), monitor="val_loss")
    frame = fit(model_of(), epochs=1, callbacks=[progress])
    (line,) = [line for line in file.getvalue().splitlines() if line.startswith("epoch")]
    for name in ("train_focal", "train_l2", "val_l1"):
        assert f"{name} {frame[name].iloc[0]:#.4g}".rstrip(".") in line


def test_progress_shows_the_terms_on_a_terminal():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, height=60)
    fit(model_of(), epochs=2, callbacks=[Progress(console=console, monitor="val_l1")])
    # A slow machine shows the live line in the first epoch too: of training or of validation alone.
    lines = file.getvalue().splitlines()
    header = next(line for line in lines if "train_loss" in line and "val_loss" in line)
    for name in ("train_focal", "train_l2", "train_l1", "val_focal", "val_l2", "val_l1"):
        assert name in header
    assert "train_focal" in file.getvalue().split("train_loss")[1]  # the live line


def test_the_history_draws_a_panel_for_each_term():
    model = model_of(metrics={"acc": "acc"})
    fit(model)
    titles = [axes.get_title(loc="left") for axes in model.history.plot().axes]
    assert titles == ["loss", "acc", "focal", "l2", "l1"]


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


# Weights that change with the epoch


def ramp(epoch):
    return 0.25 * epoch


def test_a_schedule_is_followed_and_logged():
    net, expected = make_net(), make_net()
    model = model_of(FocalLoss(from_logits=True) + ramp * L2(ALPHA), net)
    frame = fit(model, batch_size=8)
    assert frame["l2_weight"].tolist() == [0.0, 0.25, 0.5]
    assert list(frame).index("l2_weight") == list(frame).index("lr") + 1
    optimizer, rows = SGD(expected.parameters()), []
    for epoch in range(EPOCHS):

        def scaled(net, x, y, w, epoch=epoch):
            return ramp(epoch) * l2(net, x, y, w)[0], len(x)

        def order(_, epoch=epoch):
            return in_order(8, X, Y, None)(epoch)

        rows += by_hand(expected, {"focal": focal, "l2": scaled}, order, optimizer, epochs=1)
    assert_same(net, expected)
    assert frame["train_l2"].tolist() == [close(row["l2"]) for row in rows]
    assert frame["val_l2"].iloc[-1] == close(0.5 * l2(net, X, Y, None)[0])


def test_a_constant_weight_adds_no_column():
    assert not [name for name in fit(model_of()) if name.endswith("_weight")]


def test_a_schedule_of_a_loss_alone_is_logged_too():
    frame = fit(model_of(ramp * FocalLoss(from_logits=True)))
    assert list(frame) == ["epoch", "train_loss", "lr", "focal_weight", "val_loss", "seconds"]


def test_a_second_fit_goes_on_with_the_schedule():
    model = model_of(FocalLoss(from_logits=True) + ramp * L2())
    fit(model, epochs=2)
    assert fit(model, epochs=2)["l2_weight"].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert fit(model, epochs=2, initial_epoch=1)["l2_weight"].tolist()[-1] == 0.25


def test_evaluate_uses_the_weights_of_the_last_epoch():
    model = model_of(FocalLoss(from_logits=True) + ramp * L2())
    frame = fit(model)
    assert model.evaluate((X, Y), verbose=0)["val_loss"] == close(frame["val_loss"].iloc[-1])
    with pytest.raises(ValueError, match="monitor"):
        fit(model, monitor="val_nothing")  # a fit that is refused changes nothing
    assert model.evaluate((X, Y), verbose=0)["val_loss"] == close(frame["val_loss"].iloc[-1])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, None, "much", [1.0]])
def test_a_schedule_that_gives_no_number_is_refused_before_the_first_update(wrong):
    def schedule(epoch):
        return wrong if epoch == 2 else 1.0

    net = make_net()
    before = copy.deepcopy(net.state_dict())
    model = model_of(FocalLoss(from_logits=True) + schedule * L2(), net)
    with pytest.raises(ValueError, match=r"weight of L2\(\).*epoch 2.*schedule.*finite number"):
        fit(model)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert len(fit(model, epochs=2)) == 2  # which is not asked for that epoch


def test_the_figures_of_the_schedule_can_be_monitored_with_a_mode():
    model = model_of(FocalLoss(from_logits=True) + ramp * L2())
    with pytest.raises(ValueError, match="a higher 'l2_weight' is better; pass mode"):
        fit(model, monitor="l2_weight")
    assert len(fit(model, monitor="l2_weight", mode="max", patience=9)) == EPOCHS


# What is not finite


@pytest.mark.parametrize("broken", ["data", "penalty"])
def test_a_term_that_is_not_finite_stops_the_fit_and_is_named(broken):
    class Root(Penalty):
        """Becomes NaN as soon as a weight is negative."""

        def value(self, weights):
            return weights[0].min().sqrt()

    y = Y.clone()
    y[30] = math.nan if broken == "data" else y[30]
    objective = FocalLoss(from_logits=True) + L2(ALPHA)
    objective = objective + (Root(include="2.weight") if broken == "penalty" else L1(ALPHA))
    net = make_net()
    nn.init.constant_(net[2].weight, 1.0)

    class Breaks(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if broken == "penalty" and batch == 3:
                nn.init.constant_(net[2].weight, -1.0)
            self.before = copy.deepcopy(net.state_dict())

    breaks, wrong = Breaks(), "root" if broken == "penalty" else "focal"
    message = rf"loss \(focal \+ l2 \+ .*\) is nan: {wrong} is nan in epoch 1, .*batch 4 .*lr 0.1"
    with pytest.raises(NonFiniteError, match=message) as caught:
        KerasModel(net, objective, optimizer=SGD).fit(
            (X, y), batch_size=8, shuffle=False, callbacks=[breaks], verbose=0
        )
    assert "l2 is" not in str(caught.value)
    for name, value in net.state_dict().items():
        assert torch.equal(value, breaks.before[name])


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
    monkeypatch.setattr("fitorch.metrics.mean.mean_on", lambda _, **options: DeviceMean(**options))


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
    y = Y.clone()
    y[3] = math.nan
    message = r"loss \(focal \+ l2 \+ l1\) is nan: focal is nan in epoch 1 \(after 2 updates"
    with pytest.raises(NonFiniteError, match=message):
        KerasModel(make_net(), BINARY, optimizer=SGD).fit(
            (X, y), epochs=2, shuffle=False, verbose=0
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


def test_a_batch_whose_samples_cant_be_counted_is_not_weighed_by_guess():
    def forward(net, batch):
        return net(X[batch["first"] :]), Y[batch["first"] :]

    net = make_net()
    before = copy.deepcopy(net.state_dict())
    model = KerasModel(net, "mse", optimizer=SGD, forward=forward)
    with pytest.raises(ValueError, match=r"no tensor with a batch dimension.*training batch 1"):
        model.fit([{"first": 0}, {"first": 9}], gradient_accumulation_steps=2, verbose=0)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
