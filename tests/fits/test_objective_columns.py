"""The terms of an objective as columns: their names, their monitors, schedules, faults."""

import copy
import io
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import Callback, EarlyStopping, Progress
from fitorch.losses import L1, L2, FocalLoss, Penalty, term
from fits.objectives import (
    ALPHA,
    BINARY,
    CASES,
    EPOCHS,
    SGD,
    Logs,
    X,
    Y,
    assert_same,
    by_hand,
    close,
    fit,
    focal,
    in_order,
    l2,
    make_net,
    model_of,
    ramp,
)


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


# Weights that change with the epoch


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

    x = X.clone()
    x[30] = math.nan if broken == "data" else x[30]
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
            (x, Y), batch_size=8, shuffle=False, callbacks=[breaks], verbose=0
        )
    assert "l2 is" not in str(caught.value)
    for name, value in net.state_dict().items():
        assert torch.equal(value, breaks.before[name])
