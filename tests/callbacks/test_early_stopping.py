import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback, EarlyStopping, NonFiniteMetricWarning
from fitorch.callbacks.logs import EpochLogs

NAN = math.nan


def run(callback, values, figure="val_loss"):
    """Go through epochs with these figures; after epoch k the net's weight is k.

    Returns:
        How many epochs ran, and the net's weight at the end.
    """
    net = nn.Linear(1, 1, bias=False)
    objective = SimpleNamespace(module=nn.Module())
    model = SimpleNamespace(net=net, objective=objective, stop_training=False)
    callback.set_model(model)
    callback.on_train_begin({})
    epochs = 0
    for epoch, value in enumerate(values):
        nn.init.constant_(net.weight, epoch)
        logs = {"train_loss": 1.0} if value is None else {"train_loss": 1.0, figure: value}
        callback.on_epoch_end(epoch, EpochLogs(logs))
        epochs += 1
        if model.stop_training:
            break
    callback.on_train_end({})
    return epochs, net.weight.item()


@pytest.mark.parametrize("patience", [0, 1, 2, 3, 4])
def test_stops_after_patience_epochs_without_improvement(patience):
    callback = EarlyStopping(patience=patience)
    run(callback, [10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6])
    assert callback.stopped_epoch == max(patience, 1) + 2


def test_an_improvement_starts_the_count_again():
    assert run(EarlyStopping(patience=2), [5, 6, 4, 5, 3, 4, 4, 2])[0] == 7


def test_a_run_that_improves_goes_on():
    callback = EarlyStopping(patience=1)
    assert run(callback, [5, 4, 3, 2])[0] == 4
    assert callback.stopped_epoch == 0
    assert callback.stopping_reason == ""


def test_patience_zero_does_not_stop_a_run_that_improves():
    assert run(EarlyStopping(patience=0), [5, 4, 3, 3])[0] == 4


def test_equal_is_no_improvement():
    assert run(EarlyStopping(patience=2), [5, 5, 5, 5])[0] == 3


def test_an_improvement_must_beat_min_delta():
    assert run(EarlyStopping(patience=1, min_delta=0.5), [5, 4.5, 4])[0] == 2
    assert run(EarlyStopping(patience=1, min_delta=0.5), [5, 4.4, 3.8])[0] == 3


def test_small_steps_add_up_to_an_improvement():
    callback = EarlyStopping(patience=3, min_delta=0.5)
    assert run(callback, [5, 4.7, 4.4, 4.1, 3.8])[0] == 5
    assert callback.watched.best == 3.8


def test_mode_max_waits_for_higher_figures():
    assert run(EarlyStopping("val_acc", mode="max", patience=2), [1, 2, 3, 2, 3, 4], "val_acc") == (
        5,
        4,
    )


def test_the_reason_is_told():
    callback = EarlyStopping(patience=2)
    run(callback, [1, 2, 3])
    assert callback.stopping_reason == "val_loss did not improve for 2 epochs"
    callback = EarlyStopping(patience=1)
    run(callback, [1, 2, 3])
    assert callback.stopping_reason == "val_loss did not improve for 1 epoch"


def test_a_run_that_never_beats_its_baseline_stops():
    assert run(EarlyStopping(patience=3, baseline=1.0), [5, 4, 3, 2, 1.5])[0] == 3


def test_beating_the_baseline_resets_the_patience():
    assert run(EarlyStopping(patience=3, baseline=3.5), [5, 4, 3, 4, 4, 4, 4])[0] == 6


def test_a_baseline_is_beaten_from_above_in_mode_max():
    callback = EarlyStopping("val_acc", mode="max", patience=2, baseline=0.5)
    assert run(callback, [0.1, 0.6, 0.5, 0.4, 0.3], "val_acc")[0] == 4


def test_epochs_at_the_beginning_can_be_left_out():
    callback = EarlyStopping(patience=2, start_from_epoch=3)
    assert run(callback, [1, 2, 3, 4, 5, 6, 7])[0] == 6
    assert callback.watched.best == 4


def test_epochs_without_validation_do_not_count():
    callback = EarlyStopping(patience=2)
    assert run(callback, [None, 3, None, None, 4, None, 5, None])[0] == 7


def test_nan_is_never_best_and_counts_as_no_improvement():
    callback = EarlyStopping(patience=2, restore_best_weights=True)
    with pytest.warns(NonFiniteMetricWarning):
        assert run(callback, [NAN, 5, NAN, 4, NAN, 6]) == (6, 3)
    assert callback.watched.best == 4


def test_training_stops_where_all_is_nan():
    callback = EarlyStopping(patience=3, restore_best_weights=True)
    with pytest.warns(NonFiniteMetricWarning):
        assert run(callback, [NAN] * 9) == (3, 2)


def test_the_best_weights_are_restored_when_stopped():
    assert run(EarlyStopping(patience=2, restore_best_weights=True), [5, 3, 4, 4, 4]) == (4, 1)


def test_the_best_weights_are_restored_when_not_stopped():
    assert run(EarlyStopping(patience=9, restore_best_weights=True), [5, 3, 4, 4]) == (4, 1)


def test_without_being_asked_the_last_weights_stay():
    assert run(EarlyStopping(patience=2), [5, 3, 4, 4, 4]) == (4, 3)


def test_the_first_weights_are_restored_where_nothing_beats_the_baseline():
    callback = EarlyStopping(patience=2, baseline=0.1, restore_best_weights=True)
    assert run(callback, [3, 4, 5]) == (2, 0)


def test_each_fit_begins_afresh():
    callback = EarlyStopping(patience=2, restore_best_weights=True)
    assert run(callback, [1, 2, 3]) == (3, 0)
    assert run(callback, [9, 8, 9, 9]) == (4, 1)
    assert callback.stopped_epoch == 3
    assert run(callback, [9, 8]) == (2, 1)
    assert (callback.stopped_epoch, callback.stopping_reason, callback.wait) == (0, "", 0)


@pytest.mark.parametrize("patience", [-1, -5])
def test_a_negative_patience_is_refused(patience):
    with pytest.raises(ValueError, match=f"patience is {patience}; expected a number of epochs"):
        EarlyStopping(patience=patience)


def test_a_misspelt_mode_is_refused():
    with pytest.raises(ValueError, match="mode is 'mim'"):
        EarlyStopping(mode="mim")


def test_the_state_goes_on_where_it_was():
    first = EarlyStopping(patience=3, restore_best_weights=True)
    run(first, [5, 4, 5])
    second = EarlyStopping(patience=3, restore_best_weights=True)
    second.load_state_dict(first.state_dict())
    assert run(second, [6, 6, 6]) == (2, 1)  # one epoch had been waited before


def fit(callbacks, epochs=8, metrics=None, lr=1e9, **options):
    """Train with a rate that makes everything worse: the first epoch is the best."""
    torch.manual_seed(0)
    x = torch.randn(16, 2)
    y = x[:, :1]
    model = KerasModel(nn.Linear(2, 1), nn.L1Loss(), metrics, lambda p: torch.optim.SGD(p, lr=lr))
    model.fit((x, y), (x, y), epochs=epochs, callbacks=callbacks, verbose=0, **options)
    return model


def test_a_fit_is_stopped():
    callback = EarlyStopping(patience=2)
    model = fit([callback], lr=0.0)
    assert len(model.history) == 3
    assert callback.stopped_epoch == 2


def test_the_argument_patience_stops_too():
    assert len(fit([], lr=0.0, patience=3).history) == 4


def test_the_direction_of_a_metric_is_found_out():
    callback = EarlyStopping("val_mae")
    fit([callback], epochs=2, metrics={"mae": "mae"})
    assert callback.watched.mode == "min"
    callback = EarlyStopping("r2")
    fit([callback], epochs=1, metrics={"r2": "r2"})
    assert callback.watched.mode == "max"


def test_a_direction_that_nobody_knows_is_asked_for():
    def odd(y_pred, y_true):
        return (y_pred - y_true).mean()

    with pytest.raises(
        ValueError, match=r"cannot tell whether a higher 'val_odd' is better; pass mode='max'"
    ):
        fit([EarlyStopping("val_odd")], metrics={"odd": odd})
    fit([EarlyStopping("val_odd", mode="min")], epochs=1, metrics={"odd": odd})


def test_a_monitor_that_is_not_measured_is_refused_before_training():
    with pytest.raises(ValueError, match=r"EarlyStopping monitors 'val_acc'.*'val_loss'\]; pass"):
        fit([EarlyStopping("val_acc")])


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_best_weights_are_restored_when_an_error_ends_training(error):
    weights = []

    class Fails(Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.net.weight.detach().clone())
            if epoch == 2:
                raise error

    torch.manual_seed(0)
    x = torch.randn(16, 2)
    net = nn.Linear(2, 1)
    model = KerasModel(net, nn.L1Loss(), optimizer=lambda p: torch.optim.SGD(p, lr=50.0))
    stopping = EarlyStopping(patience=9, restore_best_weights=True)
    with pytest.raises(error):
        model.fit((x, x[:, :1]), (x, x[:, :1]), callbacks=[stopping, Fails()], verbose=0)
    best = stopping.watched.best_epoch
    assert torch.equal(net.weight, weights[best])
    assert len(model.history) == 3
