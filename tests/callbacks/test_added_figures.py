"""Figures that callbacks add to an epoch's logs: declared, they are watched like any other."""

from unittest.mock import MagicMock

import pytest
import torch
from torch import nn, optim

from fitorch import KerasModel
from fitorch.callbacks import (
    BestWeights,
    Callback,
    CallbackList,
    EarlyStopping,
    GradientNorm,
    LambdaCallback,
    ModelCheckpoint,
    ReduceLROnPlateau,
    StopAt,
)

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
LIFTS = [1.0, 4.0, 2.0, 3.0, 3.5, 3.0, 3.0, 3.0, 3.0]  # the best is the second


def model_of(metrics=None, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    return KerasModel(net, "mse", metrics, optim.SGD(net.parameters(), 0.1), **options)


def fit(*callbacks, model=None, **options):
    model = model or model_of()
    chosen = {"epochs": len(LIFTS), "verbose": 0, "seed": 0} | options
    model.fit((X, Y), (X, Y), callbacks=list(callbacks), **chosen)
    return model


class Lift(Callback):
    """Adds a figure of its own in the epochs that have one, and keeps each epoch's weights."""

    adds = ("lift",)

    def __init__(self, values=LIFTS, name="lift"):
        self.values, self.name, self.weights = values, name, []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.net.weight.detach().clone())
        if self.values[epoch] is not None:
            logs[self.name] = self.values[epoch]


def norms_by_hand(epochs):
    """The norm of the gradients of each epoch of one batch, in a loop by hand."""
    net = model_of().net
    optimizer, norms = optim.SGD(net.parameters(), 0.1), []
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X), Y).backward()
        norms.append(torch.cat([p.grad.flatten() for p in net.parameters()]).norm().item())
        optimizer.step()
    return norms


def test_a_norm_of_gradients_can_be_a_goal():
    norms = norms_by_hand(9)
    goal = (norms[3] + norms[4]) / 2
    assert norms[4] < goal < norms[3]
    stop = StopAt(goal, "grad_norm", mode="min")
    model = fit(GradientNorm(), stop, batch_size=20, shuffle=False)
    assert model.history.history["grad_norm"] == pytest.approx(norms[:5], rel=1e-4)


def test_a_norm_of_gradients_can_stop_a_fit_by_its_arguments():
    model = fit(GradientNorm(), monitor="grad_norm", mode="max", patience=2, batch_size=20)
    assert len(model.history) == 3  # norms fall from the first epoch on
    assert model.history.best["epoch"] == 1


def test_a_figure_of_ones_own_stops_the_fit_where_it_says():
    stopping = EarlyStopping("lift", mode="max", patience=2, restore_best_weights=True)
    lift = Lift()
    model = fit(lift, stopping)
    assert len(model.history) == 4
    assert torch.equal(model.net.weight, lift.weights[1])


def test_a_figure_of_ones_own_decides_by_the_arguments_of_fit(tmp_path):
    lift = Lift()
    model = fit(lift, monitor="lift", mode="max", patience=2, ckpt_path=tmp_path)
    assert len(model.history) == 4
    assert torch.equal(model.net.weight, lift.weights[1])
    assert model.history.best["lift"] == 4.0
    other = model_of()
    other.load_ckpt(tmp_path)
    assert torch.equal(other.net.weight, lift.weights[1])


def test_a_figure_of_ones_own_marks_the_best_row_and_the_last_line(capsys):
    fit(Lift(), monitor="lift", mode="max", patience=2, verbose=2)
    assert "best epoch 2: lift 4" in capsys.readouterr().out


def test_a_figure_of_ones_own_lowers_the_rate():
    plateau = ReduceLROnPlateau("lift", mode="max", patience=2, factor=0.5)
    rates = fit(Lift(), plateau, epochs=6).history.history["lr"]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_a_figure_of_ones_own_stands_in_the_name_of_a_file(tmp_path):
    fit(Lift(), ModelCheckpoint(tmp_path / "{epoch}-{lift:.1f}.pt"), epochs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-1.0.pt", "2-4.0.pt"]


def test_epochs_that_do_not_add_the_figure_do_not_count():
    lift = Lift([None, 1.0, None, None, 1.0, None, 1.0, 1.0, 1.0])
    assert len(fit(lift, EarlyStopping("lift", mode="max", patience=2)).history) == 7


def test_a_training_figure_is_found_under_kerass_name():
    lift = Lift(name="train_lift")
    lift.adds = ("train_lift",)
    assert len(fit(lift, EarlyStopping("lift", mode="max", patience=2)).history) == 4
    lift = Lift(name="train_lift")
    lift.adds = ["train_lift"]
    assert len(fit(lift, monitor="lift", mode="max", patience=2).history) == 4


def test_a_function_can_add_a_figure():
    def add(epoch, logs):
        logs["lift"] = LIFTS[epoch]

    for adds in (["lift"], "lift"):
        callback = LambdaCallback(on_epoch_end=add, adds=adds)
        assert len(fit(callback, monitor="lift", mode="max", patience=2).history) == 4


def test_what_is_in_a_list_adds_and_watches_too():
    several = CallbackList([Lift(), EarlyStopping("lift", mode="max", patience=2)])
    assert several.adds == ("lift",)
    assert len(fit(several).history) == 4
    assert len(fit(CallbackList([Lift()]), monitor="lift", mode="max", patience=2).history) == 4


def test_what_is_in_a_list_learns_the_direction_of_a_metric():
    stopping = EarlyStopping("val_r2")
    fit(CallbackList([stopping]), model=model_of({"r2": "r2"}), epochs=1)
    assert stopping.watched.mode == "max"


def test_the_direction_must_be_told_also_where_a_metrics_name_begins_alike():
    lift = Lift(name="mae_gap")
    lift.adds = ("mae_gap",)
    match = "cannot tell whether a higher 'mae_gap' is better; pass mode='max' or mode='min'"
    for options in ({"monitor": "mae_gap"}, {"callbacks": [lift, EarlyStopping("mae_gap")]}):
        model = model_of({"mae": "mae"})
        with pytest.raises(ValueError, match=match):
            model.fit((X, Y), verbose=0, **{"callbacks": [lift]} | options)
        assert len(model.history) == 0


@pytest.mark.parametrize("wrap", [list, lambda callbacks: [CallbackList(callbacks)]])
def test_who_watches_before_the_figure_is_added_is_refused_before_training(wrap):
    model = model_of()
    callbacks = wrap([EarlyStopping("lift", mode="max"), Lift()])
    match = (
        "EarlyStopping monitors 'lift', which Lift adds to the logs only afterwards; "
        "put Lift before EarlyStopping in callbacks"
    )
    with pytest.raises(ValueError, match=match):
        fit(*callbacks, model=model)
    assert len(model.history) == 0


def test_a_figure_that_nobody_declares_says_how_to():
    undeclared = Lift()
    undeclared.adds = ()
    with pytest.raises(ValueError, match=r"fit monitors 'lift', .* needs adds = \('lift',\)"):
        fit(undeclared, monitor="lift", mode="max")
    with pytest.raises(ValueError, match=r"did you mean 'lift'\?\)"):
        fit(Lift(), monitor="lifts", mode="max")
    with pytest.raises(ValueError, match="'grad_norm_mean'"):
        fit(GradientNorm(), monitor="grad_norm_mean", mode="max")


def test_a_schedule_of_torchs_that_comes_too_early_is_refused():
    model = model_of(lr_scheduler=lambda o: optim.lr_scheduler.ReduceLROnPlateau(o))
    with pytest.raises(ValueError, match=r"steps before .* pass fitorch.callbacks.ReduceLROn"):
        fit(Lift(), model=model, monitor="lift", mode="max")
    model = model_of(lr_scheduler=lambda o: optim.lr_scheduler.StepLR(o, 1))
    assert len(fit(Lift(), model=model, monitor="lift", mode="max", patience=2).history) == 4


def test_only_who_adds_the_monitored_figure_comes_before_the_best_weights():
    ends = []

    class Tells(Lift):
        def on_train_end(self, logs=None):
            ends.append(torch.equal(self.model.net.weight, self.weights[1]))

    fit(Tells(), Lift(name="other"), monitor="lift", mode="max", patience=2)
    other = Tells(name="other")
    other.adds = ("other",)
    fit(Lift(), other, monitor="lift", mode="max", patience=2)
    assert ends == [False, True]  # in its place, other finds the best weights restored


def test_a_callback_may_watch_what_it_adds_itself():
    class Both(EarlyStopping):
        adds = ("lift",)

        def on_epoch_end(self, epoch, logs=None):
            logs["lift"] = LIFTS[epoch]
            super().on_epoch_end(epoch, logs)

    assert len(fit(Both("lift", mode="max", patience=2)).history) == 4


def test_a_measured_figure_that_is_replaced_keeps_its_direction():
    lift = Lift([3.0, 2.0, 1.0, 2.0, 2.0, 2.0], name="val_loss")
    lift.adds = ("val_loss",)
    assert len(fit(lift, epochs=6, patience=2).history) == 5
    best = BestWeights("val_loss")
    fit(lift, best, epochs=2)
    assert best.watched.mode == "min"


@pytest.mark.parametrize("adds", [MagicMock(), None, lambda self: ()])
def test_an_attribute_of_that_name_that_is_something_else_is_no_declaration(adds):
    callback = LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    callback.adds = adds
    fit(callback, epochs=1)


def test_a_declaration_of_other_things_than_names_is_refused():
    callback = Lift()
    callback.adds = (3,)
    with pytest.raises(TypeError, match=r"Lift.adds is \(3,\); expected column names"):
        fit(callback, epochs=1)


def test_a_reused_callback_forgets_what_an_earlier_fit_added():
    stopping = EarlyStopping("lift", mode="max", patience=2)
    fit(Lift(), stopping)
    with pytest.raises(ValueError, match="'lift'"):
        fit(stopping)
