"""Learning rates set by callbacks, beside Keras' own arithmetic and torch's."""

import math

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel, WarmupCosine
from fitorch.callbacks import Callback, LearningRateScheduler, ReduceLROnPlateau

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def model_of(optimizer=None, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = optimizer(net) if optimizer else optim.SGD(net.parameters(), 0.1)
    return KerasModel(net, "mse", {}, optimizer, **options)


def two_groups(net):
    return optim.SGD([{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.2}])


def test_a_schedule_of_epoch_and_rate():
    model = model_of()
    frame = model.fit(
        (X, Y), epochs=4, verbose=0, callbacks=[LearningRateScheduler(lambda e, lr: lr / (e + 1))]
    )
    assert frame["lr"].tolist() == pytest.approx([0.1, 0.05, 0.05 / 3, 0.05 / 12])


def test_a_schedule_of_the_epoch_alone_and_of_several_groups():
    model = model_of(two_groups)
    frame = model.fit(
        (X, Y), epochs=3, verbose=0, callbacks=[LearningRateScheduler(lambda e: 0.01 * (e + 1))]
    )
    assert frame["lr"].tolist() == pytest.approx([0.01, 0.02, 0.03])
    assert frame["lr_1"].tolist() == pytest.approx([0.02, 0.04, 0.06])


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda: 0.1, TypeError, r"expected \(epoch, lr\) or \(epoch\)"),
        ("cosine", TypeError, "schedule is 'cosine'"),
        (lambda epoch: None, TypeError, "returned None for epoch 0, a NoneType"),
        (lambda epoch: -1.0, ValueError, "returned -1.0 for epoch 0"),
        (lambda epoch: math.nan, ValueError, "returned nan"),
    ],
)
def test_schedules_that_give_no_rate(schedule, error, message):
    with pytest.raises(error, match=message):
        model_of().fit((X, Y), epochs=1, verbose=0, callbacks=[LearningRateScheduler(schedule)])


@pytest.mark.parametrize("callback", [LearningRateScheduler(lambda e: 0.1), ReduceLROnPlateau()])
def test_two_who_set_the_rate_are_refused(callback):
    model = model_of(lr_scheduler=lambda o: optim.lr_scheduler.StepLR(o, 1))
    with pytest.raises(ValueError, match="lr_scheduler=StepLR both set the learning rate"):
        model.fit((X, Y), (X, Y), epochs=1, verbose=0, callbacks=[callback])


class Feeds(Callback):
    """Puts made-up figures into the logs, in the place of the measured ones."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


def rates(values, **options):
    model = model_of()
    callbacks = [Feeds(values), ReduceLROnPlateau(**options)]
    model.fit((X, Y), (X, Y), epochs=len(values), verbose=0, callbacks=callbacks)
    return [*model.history.frame["lr"], model.optimizer.param_groups[0]["lr"]]


def keras_rates(values, factor, patience, cooldown, min_lr, min_delta):
    """Keras' ReduceLROnPlateau.on_epoch_end, line by line."""
    rate, best, wait, counter, found = 0.1, math.inf, 0, 0, [0.1]
    for value in values:
        if counter > 0:
            counter -= 1
            wait = 0
        if value < best - min_delta:
            best, wait = value, 0
        elif not counter > 0:
            wait += 1
            if wait >= patience and rate > min_lr:
                rate = max(rate * factor, min_lr)
                counter, wait = cooldown, 0
        found.append(rate)
    return found


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("cooldown", [0, 1, 3])
@pytest.mark.parametrize("min_lr", [0.0, 0.02])
def test_a_plateau_lowers_the_rate_as_in_keras(patience, cooldown, min_lr):
    values = [5, 4, 4, 4, 3.9999, 4, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2]
    options = {"factor": 0.5, "patience": patience, "cooldown": cooldown, "min_lr": min_lr}
    expected = keras_rates(values, **options, min_delta=1e-2)
    assert rates(values, **options, min_delta=1e-2) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore::fitorch.callbacks.NonFiniteMetricWarning")
def test_nan_is_no_improvement_and_does_not_end_the_watch():
    found = rates([math.nan, 3, math.nan, 3, 2, 2, 2], factor=0.5, patience=2)
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])


def test_epochs_without_a_new_value_do_not_count():
    model = model_of()
    frame = model.fit(
        (X, Y),
        (X, Y),
        epochs=6,
        validation_freq=3,
        verbose=0,
        callbacks=[ReduceLROnPlateau(patience=1, min_delta=100)],
    )
    assert frame["lr"].tolist() == pytest.approx([0.1] * 6)
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "options",
    [{"factor": 1.0}, {"factor": 0}, {"patience": -1}, {"cooldown": -1}, {"min_lr": -1e-3}],
)
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        ReduceLROnPlateau(**options)


def test_warmup_and_cosine_against_the_formula_update_by_update():
    schedule = WarmupCosine(updates=30, warmup=5, final=0.1)
    model = model_of(lr_scheduler=schedule)
    seen = []

    class See(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(self.model.optimizer.param_groups[0]["lr"])

    with pytest.warns(UserWarning, match="WarmupCosine ends after 30 steps.*goes on to 32 updates"):
        model.fit((X, Y), epochs=8, batch_size=10, verbose=0, callbacks=[See()])
    expected = [0.1 * (t + 1) / 5 for t in range(5)]
    expected += [
        0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi * (t - 5) / 25)) / 2) for t in range(5, 30)
    ]
    assert seen == pytest.approx([*expected, 0.01, 0.01])


@pytest.mark.parametrize(
    "options", [{"updates": 0}, {"updates": 5, "warmup": 5}, {"updates": 5, "final": 2}]
)
def test_a_warmup_that_makes_no_sense(options):
    with pytest.raises(ValueError, match=r"updates=|final is"):
        WarmupCosine(**options)


def state_of(model):
    tensors = [*model.net.state_dict().values()]
    for state in model.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return [tensor.clone() for tensor in tensors]


def test_find_lr_leaves_everything_as_it_was_and_suggests_a_rate_that_trains(tmp_path):
    model = model_of(lambda net: optim.Adam(net.parameters(), 0.1))
    loader = DataLoader(
        TensorDataset(X, Y), 8, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    model.fit(loader, epochs=2, verbose=0)
    before, position = state_of(model), loader.generator.get_state()
    torch.manual_seed(9)
    numbers, frame_before = torch.get_rng_state(), model.history.frame
    frame = model.find_lr(loader, start=1e-5, end=10, steps=80, plot=tmp_path / "lr.png", seed=0)
    assert all(map(torch.equal, state_of(model), before))
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.equal(loader.generator.get_state(), position)
    assert model.history.frame.equals(frame_before)
    assert model.progress.epochs == 2
    assert model.optimizer.param_groups[0]["lr"] == 0.1
    assert list(frame) == ["lr", "loss", "smoothed"]
    assert frame["lr"].iloc[0] == pytest.approx(1e-5)
    assert 1e-3 <= frame.attrs["suggestion"] <= 1
    assert (tmp_path / "lr.png").stat().st_size > 0


def test_the_losses_of_find_lr_are_those_of_a_loop_by_hand():
    model = model_of()
    rates = [1e-3 * 10 ** (3 * i / 19) for i in range(20)]
    frame = model.find_lr((X[:10], Y[:10]), start=1e-3, end=1.0, steps=20, batch_size=10, seed=0)
    net = model_of().net
    optimizer = optim.SGD(net.parameters(), 0.1)
    losses = []
    for rate in rates[: len(frame)]:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X[:10]), Y[:10])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert frame["lr"].tolist() == pytest.approx(rates[: len(frame)])
    assert frame["loss"].tolist() == pytest.approx(losses, rel=1e-4)


def test_find_lr_stops_where_the_loss_explodes():
    frame = model_of().find_lr((X, Y), start=1e-4, end=1e4, steps=200, seed=0)
    assert 10 < len(frame) < 200


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": 1.0, "end": 0.1}, ValueError, "expected rates with 0 < start < end"),
        ({"steps": 3}, ValueError, "steps is 3"),
        ({"train_data": iter([(X, Y)])}, TypeError, "would use up"),
    ],
)
def test_find_lr_refuses(options, error, message):
    options = {"train_data": (X, Y)} | options
    with pytest.raises(error, match=message):
        model_of().find_lr(**options)


def test_where_nothing_falls_nothing_is_suggested():
    net = nn.Linear(3, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    model = KerasModel(net, "mse", {}, optim.SGD(net.parameters(), 1.0))
    with pytest.warns(UserWarning, match="did not fall at any of the rates"):
        frame = model.find_lr((X, torch.zeros_like(Y)), steps=20)
    assert math.isnan(frame.attrs["suggestion"])
