import math

import pytest

from fitorch.callbacks import MonitorCallback, NonFiniteMetricWarning
from fitorch.callbacks.logs import EpochLogs
from fitorch.callbacks.monitor import Monitor, check_mode, check_monitor

NAMES = ["train_loss", "train_acc", "lr", "val_loss", "val_acc"]


def improvements(monitor, *values):
    return [monitor.improves(value, epoch) for epoch, value in enumerate(values)]


def test_lower_is_better_in_mode_min():
    monitor = Monitor("val_loss", "min")
    assert improvements(monitor, 3.0, 2.0, 2.0, 2.5, 1.9) == [True, True, False, False, True]
    assert (monitor.best, monitor.best_epoch) == (1.9, 4)


def test_higher_is_better_in_mode_max():
    monitor = Monitor("val_acc", "max")
    assert improvements(monitor, -3.0, -2.0, -2.0, -2.5, 0.0) == [True, True, False, False, True]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
@pytest.mark.parametrize("min_delta", [0.5, -0.5])
def test_an_improvement_must_be_larger_than_min_delta(mode, sign, min_delta):
    monitor = Monitor("x", mode, min_delta)
    values = [sign * value for value in (4.0, 3.5, 3.4, 3.0)]
    assert improvements(monitor, *values) == [True, False, True, False]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_negative_figures_follow_the_same_rule(mode):
    monitor = Monitor("x", mode, min_delta=0.1)
    worse = -0.95 if mode == "min" else -1.05
    assert improvements(monitor, -1.0, worse) == [True, False]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_never_best(mode):
    monitor = Monitor("val_loss", mode)
    with pytest.warns(NonFiniteMetricWarning, match=r"val_loss is NaN in epoch 1 .*none yet"):
        assert not monitor.improves(math.nan, 0)
    assert monitor.improves(1.0, 1)
    with pytest.warns(NonFiniteMetricWarning, match=r"epoch 3 \(best so far: 1\)"):
        assert not monitor.improves(math.nan, 2)
    assert (monitor.best, monitor.best_epoch) == (1.0, 1)


def test_infinity_is_a_figure_like_any_other():
    assert improvements(Monitor("val_loss", "min"), math.inf, 1.0, math.inf) == [True, True, False]


def test_the_state_comes_back():
    monitor, other = Monitor("val_loss", "min"), Monitor("val_loss", "min")
    improvements(monitor, 3.0, 2.0)
    other.load_state_dict(monitor.state_dict())
    assert (other.best, other.best_epoch) == (2.0, 1)


@pytest.mark.parametrize("mode", ["mim", "MIN", "", None])
def test_a_mode_that_is_none_is_refused(mode):
    with pytest.raises(ValueError, match=f"mode is {mode!r}; expected 'min', 'max' or 'auto'"):
        check_mode(mode)
    with pytest.raises(ValueError, match=f"mode is {mode!r}"):
        MonitorCallback(mode=mode)


def test_the_direction_is_received_only_in_mode_auto():
    auto, fixed = MonitorCallback("val_acc"), MonitorCallback("val_acc", mode="min")
    for callback in (auto, fixed):
        callback.set_direction("max")
    assert (auto.watched.mode, fixed.watched.mode) == ("max", "min")


@pytest.mark.parametrize("monitor", [*NAMES, "loss", "acc"])
def test_what_is_measured_can_be_monitored(monitor):
    check_monitor(monitor, NAMES, "EarlyStopping")


def test_one_of_several_figures_of_a_metric_can_be_monitored():
    check_monitor("val_acc_3", NAMES, "EarlyStopping")


def test_a_loss_is_one_number():
    with pytest.raises(ValueError, match=r"'val_loss_3' \(did you mean 'val_loss'\?\)"):
        check_monitor("val_loss_3", NAMES, "EarlyStopping", {"train_loss", "val_loss"})


def test_an_unknown_monitor_names_the_closest_and_all():
    with pytest.raises(ValueError, match="monitors 'val_los'") as info:
        check_monitor("val_los", NAMES, "EarlyStopping")
    assert str(info.value) == (
        "EarlyStopping monitors 'val_los' (did you mean 'val_loss'?), but this fit measures "
        f"{NAMES}; pass one of these"
    )


def test_a_validation_figure_without_validation_asks_for_data():
    with pytest.raises(ValueError, match="pass val_data, or one of these as monitor"):
        check_monitor("val_acc", ["train_loss", "lr"], "fit")


def logs(*names):
    return EpochLogs(dict.fromkeys(names, 0.5))


@pytest.mark.parametrize("monitor", ["val_acc", "train_acc", "acc", "lr"])
def test_a_measured_figure_is_found(monitor):
    assert MonitorCallback(monitor).value_in(logs(*NAMES)) == 0.5


def test_a_validation_figure_is_missing_only_where_nothing_was_validated():
    callback = MonitorCallback("val_acc")
    assert callback.value_in(logs("train_loss", "lr")) is None
    with pytest.raises(ValueError, match=r"'val_acc' \(did you mean 'val_auc'\?\)"):
        callback.value_in(logs("train_loss", "lr", "val_loss", "val_auc"))


@pytest.mark.parametrize("monitor", ["train_acc", "acc", "lr_1"])
def test_a_training_figure_must_be_there(monitor):
    with pytest.raises(ValueError, match=f"MonitorCallback monitors '{monitor}'.* fit measures"):
        MonitorCallback(monitor).value_in(logs("train_loss", "lr"))


def test_empty_logs_hold_no_figure():
    assert MonitorCallback("loss").value_in(None) is None
    assert MonitorCallback("loss").value_in({}) is None


def test_each_fit_begins_afresh_unless_a_state_was_put_back():
    callback = MonitorCallback("val_loss")
    callback.watched.improves(1.0, 0)
    state = callback.state_dict()
    callback.on_train_begin()
    assert callback.watched.best is None
    callback.load_state_dict(state)
    callback.on_train_begin()
    assert callback.watched.best == 1.0
    callback.on_train_begin()
    assert callback.watched.best is None
