"""Metrics in fit and evaluate: validation sets, metrics in validation alone, errors, settings."""

import copy

import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import DataError, KerasModel
from fitorch.callbacks import EarlyStopping
from fitorch.losses import L2, term
from fitorch.metrics import AUC, Accuracy, MetricError, whole_epoch
from fits.measured import (
    SAMPLES,
    binary,
    both,
    close,
    collection,
    deciding,
    judged,
    linear,
    multiclass,
    predicted,
    row_of,
    still,
    values,
)


def notes(error):
    return " ".join([*map(str, error.args), *getattr(error, "__notes__", [])])


# Several validation sets.

CLEAN, NOISY = binary(60, 0.1, seed=11), binary(45, 3.0, seed=12)
SETS = {"clean": CLEAN, "noisy": NOISY}


def test_each_validation_set_has_columns_of_its_own():
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc", "auc": "auc"})
    frame = model.fit(binary(), SETS, epochs=2, verbose=0)
    sets = [f"val_{name}_{m}" for name in SETS for m in ("loss", "acc", "auc")]
    train = ["epoch", "train_loss", "train_acc", "train_auc", "lr"]
    assert list(frame) == [*train, *sets, "seconds"]
    for name, (x, y) in SETS.items():
        scores = predicted(model.net, x)
        last = frame.iloc[-1]
        loss = nn.functional.binary_cross_entropy_with_logits(scores, y)
        assert last[f"val_{name}_loss"] == close(loss)
        assert last[f"val_{name}_acc"] == close(sk.accuracy_score(y, scores > 0))
        assert last[f"val_{name}_auc"] == close(sk.roc_auc_score(y, scores))


def test_the_first_validation_set_is_watched_by_default():
    model = KerasModel(linear(), "bce_with_logits")
    model.fit(binary(), SETS, epochs=1, verbose=0)
    assert (model.history.monitor, model.history.mode) == ("val_clean_loss", "min")


def test_the_figure_of_any_validation_set_can_be_watched(tmp_path):
    model = KerasModel(
        linear(), "bce_with_logits", {"acc": "acc"}, lambda p: torch.optim.SGD(p, lr=2.0)
    )
    options = {"monitor": "val_noisy_acc", "patience": 2, "ckpt_path": tmp_path}
    frame = model.fit(binary(), SETS, epochs=30, verbose=0, seed=3, **options)
    assert (model.history.monitor, model.history.mode) == ("val_noisy_acc", "max")
    best = frame["val_noisy_acc"].max()
    assert len(frame) == frame["val_noisy_acc"].to_numpy().argmax() + 3 < 30
    x, y = NOISY
    assert sk.accuracy_score(y, predicted(model.net, x) > 0) == close(best)
    fresh = KerasModel(linear(), "bce_with_logits")
    fresh.load_ckpt(tmp_path / "best.safetensors")
    assert torch.equal(fresh.net.weight, model.net.weight)


def test_a_callback_watches_one_validation_set():
    stop = EarlyStopping("val_noisy_acc", patience=1)
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc"}, still)
    frame = model.fit(binary(), SETS, epochs=9, callbacks=[stop], verbose=0)
    assert len(frame) == 2
    assert stop.watched.mode == "max"


@pytest.mark.parametrize("names", [("a", "a_b"), ("a_b", "a")])
def test_sets_whose_names_begin_alike_keep_their_direction(names):
    sets = dict(zip(names, SETS.values(), strict=True))
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc", "b": "mae"})
    model.fit(binary(), sets, epochs=1, monitor="val_a_b_acc", verbose=0)
    assert model.history.mode == "max"


def test_metrics_whose_names_begin_alike_keep_their_direction():
    model = KerasModel(linear(), "mse", {"r": "mae", "r_two": "r2"})
    model.fit(values(), values(), epochs=1, monitor="val_r_two", verbose=0)
    assert model.history.mode == "max"


@pytest.mark.parametrize("monitor", ["val_loss", "val_noisy_f1", "val_noisy_loss_x", "val_acc"])
def test_a_figure_that_no_validation_set_has_is_refused_before_training(monitor):
    net = linear()
    before = copy.deepcopy(net.state_dict())
    model = KerasModel(net, "bce_with_logits", {"acc": "acc"})
    arguments = {"monitor": monitor} if monitor != "val_loss" else {}
    callbacks = [] if arguments else [EarlyStopping("val_loss")]
    with pytest.raises(ValueError, match=rf"monitors '{monitor}'.*val_clean_loss"):
        model.fit(binary(), SETS, epochs=1, callbacks=callbacks, verbose=0, **arguments)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_validation_sets_are_nan_in_epochs_without_validation_from_the_first_row_on():
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc"})
    rows = model.fit(binary(), SETS, epochs=5, validation_freq=2, verbose=0)
    for name in ("val_clean_loss", "val_clean_acc", "val_noisy_loss", "val_noisy_acc"):
        assert rows[name].isna().tolist() == [True, False, True, False, True]


def test_evaluating_several_sets_gives_the_figures_of_each_by_itself():
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc", "auc": AUC()})
    last = model.fit(binary(), SETS, epochs=1, verbose=0).iloc[-1]
    scores = model.evaluate(SETS, verbose=0)
    assert scores == last[list(scores)].to_dict()
    assert list(scores) == [name for name in last.index if name.startswith("val_")]
    for name, data in SETS.items():
        alone = model.evaluate(data, verbose=0)
        assert alone == {key: scores[f"val_{name}_{key[4:]}"] for key in alone}


def test_sets_may_be_of_different_kinds():
    loader = DataLoader(TensorDataset(*NOISY), 8)
    mixed = {"clean": tuple(part.numpy() for part in CLEAN), "noisy": loader}
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc"})
    expected = pytest.approx(model.evaluate(SETS, verbose=0), rel=1e-5)
    assert model.evaluate(mixed, verbose=0) == expected


def test_a_mapping_of_columns_is_one_set():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear()

        def forward(self, x, labels=None):
            return self.linear(x)

    x, y = binary()
    model = KerasModel(Named(), "bce_with_logits", {"acc": "acc"})
    columns = {"x": x, "labels": y}
    expected = close(sk.accuracy_score(y, predicted(model.net, x) > 0))
    assert model.evaluate(columns, verbose=0)["val_acc"] == expected
    batches = DataLoader([{"x": a, "labels": b} for a, b in zip(x, y, strict=True)], 7)
    assert model.evaluate(batches, verbose=0)["val_acc"] == expected
    frame = model.fit(columns, columns, epochs=1, verbose=0)
    assert "val_acc" in frame
    scores = model.evaluate({"clean": columns, "noisy": batches}, verbose=0)
    assert scores["val_clean_acc"] == close(scores["val_noisy_acc"])


@pytest.mark.parametrize(
    "bad", [(NOISY[0], NOISY[1][:-1]), DataLoader([]), 3, (NOISY[0], NOISY[1].long())]
)
def test_an_error_names_the_validation_set(bad):
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc"})
    for run in (
        lambda: model.evaluate({"clean": CLEAN, "noisy": bad}, verbose=0),
        lambda: model.fit(CLEAN, {"clean": CLEAN, "noisy": bad}, epochs=1, verbose=0),
    ):
        with pytest.raises((DataError, TypeError)) as caught:
            run()
        assert "val_data['noisy']" in notes(caught.value)


# Metrics in validation alone.


def test_training_metrics_can_be_left_out_and_all_else_stays():
    frames, nets = [], []
    for train_metrics in (True, False):
        net = linear()
        model = KerasModel(net, "bce_with_logits", {"acc": "acc"}, "adam")
        data = binary()
        frame = model.fit(data, data, epochs=2, seed=1, verbose=0, train_metrics=train_metrics)
        frames.append(frame.drop(columns="seconds"))
        nets.append(net)
        assert model.metric_tasks == {"acc": "binary"}
    assert list(frames[1]) == ["epoch", "train_loss", "lr", "val_loss", "val_acc"]
    assert frames[0].drop(columns="train_acc").equals(frames[1])
    assert torch.equal(nets[0].weight, nets[1].weight)


@pytest.mark.parametrize("monitor", ["train_acc", "acc"])
def test_a_training_metric_that_is_left_out_can_not_be_watched(monitor):
    net = linear()
    before = net.weight.detach().clone()
    model = KerasModel(net, "bce_with_logits", {"acc": "acc"})
    with pytest.raises(ValueError, match=f"monitors '{monitor}'"):
        model.fit(binary(), CLEAN, epochs=1, monitor=monitor, verbose=0, train_metrics=False)
    assert torch.equal(net.weight, before)


def test_training_metrics_can_be_left_out_without_validation():
    model = KerasModel(linear(), "bce_with_logits", {"acc": "acc"})
    frame = model.fit(binary(), epochs=1, verbose=2, train_metrics=False)
    assert list(frame) == ["epoch", "train_loss", "lr", "seconds"]


# Errors.


def test_a_metric_that_fails_says_where_and_leaves_the_weights():
    net = linear(3)
    before = net.weight.detach().clone()
    metrics = {"f1": torchmetrics.classification.MulticlassF1Score(4)}
    model = KerasModel(net, "cross_entropy", metrics)
    with pytest.raises(MetricError) as caught:
        model.fit(multiclass(), epochs=1, verbose=0)
    text = notes(caught.value)
    for part in ("metric 'f1'", "float32 (32, 3)", "int64 (32,)", "epoch 1, training batch 1"):
        assert part in text
    assert torch.equal(net.weight, before)


def test_a_metric_that_fails_in_validation_names_the_set():
    def picky(y_pred, y_true):
        if len(y_pred) == 45:
            message = "no such size"
            raise RuntimeError(message)
        return y_pred.mean()

    model = KerasModel(linear(), "bce_with_logits", {"picky": picky})
    with pytest.raises(MetricError) as caught:
        model.fit(binary(), SETS, epochs=1, batch_size=64, verbose=0)
    text = notes(caught.value)
    for part in ("metric 'picky'", "val_data['noisy'] batch 1 (before training)", "no such size"):
        assert part in text
    with pytest.raises(MetricError) as caught:
        model.evaluate(NOISY, batch_size=64, verbose=0)
    assert "validation batch 1" in notes(caught.value)


@pytest.mark.parametrize("train_metrics", [True, False])
def test_an_unknown_name_is_refused_before_training(train_metrics):
    net = linear()
    before = net.weight.detach().clone()
    with pytest.raises(ValueError, match=r"unknown metric 'acuracy' \(did you mean 'accuracy'\?\)"):
        KerasModel(net, "bce_with_logits", {"a": "acuracy"}).fit(
            binary(), epochs=1, verbose=0, train_metrics=train_metrics
        )
    assert torch.equal(net.weight, before)


def test_a_term_gives_way_to_a_metric_of_its_name():
    x, y = binary()
    model = KerasModel(linear(), term("mse") + 1e-3 * L2(), {"mse": "mse"}, still)
    row = row_of(model, (x, y))
    error = close(sk.mean_squared_error(y, predicted(model.net, x)))
    assert both(row, "mse") == error
    assert both(row, "mse_loss") == error


def test_a_metric_is_not_called_as_the_loss():
    with pytest.raises(ValueError, match="a metric is named 'loss'"):
        KerasModel(linear(), "mse", {"loss": "mse"})


def test_a_metric_that_two_models_share_stays_as_it_is():
    metric = torchmetrics.MeanSquaredError()
    state = copy.deepcopy(metric.__dict__["sum_squared_error"])
    x, y = values()
    rows = []
    for bias in (0.0, 3.0):
        net = linear()
        nn.init.constant_(net.bias, bias)
        model = KerasModel(net, "mse", {"mse": metric}, still)
        rows.append(row_of(model, (x, y), 7))
        assert both(rows[-1], "mse") == close(sk.mean_squared_error(y, predicted(net, x)))
    assert rows[0]["val_mse"] != rows[1]["val_mse"]
    assert torch.equal(metric.sum_squared_error, state)
    assert metric.update_count == 0


# Any setting.


def test_metrics_of_a_bfloat16_net_are_computed_in_float32():
    seen = []

    def error(y_pred, y_true):
        seen.append(y_pred.dtype)
        return (y_pred - y_true).abs().mean()

    x, y = (part.bfloat16() for part in values())
    net = linear().bfloat16()
    metrics = {"error": error, "mae": "mae", "r2": "r2"}
    row = row_of(KerasModel(net, "mae", metrics, still), (x, y), SAMPLES)
    scores = predicted(net, x).float()
    assert set(seen) == {torch.float32}
    assert both(row, "error") == close((scores - y.float()).abs().mean())
    assert both(row, "mae") == close(sk.mean_absolute_error(y.float(), scores))
    assert both(row, "r2") == close(sk.r2_score(y.float(), scores))


def test_metrics_of_a_bfloat16_net_order_samples_as_in_float32():
    x, y = (part.bfloat16() for part in binary())
    net = linear().bfloat16()
    metrics = {"auc": AUC(), "acc": "acc", "f1": "f1"}
    row = row_of(KerasModel(net, "bce_with_logits", metrics, still), (x, y), 7)
    scores, target = predicted(net, x).float(), y.float()
    assert both(row, "auc") == close(sk.roc_auc_score(target, scores))
    assert both(row, "acc") == close(sk.accuracy_score(target, scores > 0))
    assert both(row, "f1") == close(sk.f1_score(target, scores > 0))


def test_accumulating_gradients_leaves_metrics_as_they_are():
    x, y = binary()
    net = linear()
    model = KerasModel(net, "bce_with_logits", deciding(), still)
    row = row_of(model, (x, y), 7, gradient_accumulation_steps=4)
    for name, expected in judged(predicted(net, x) > 0, y).items():
        assert both(row, name) == close(expected)


def test_validation_metrics_are_identical_for_any_batches():
    x, y = binary()
    net = linear()
    metrics = {
        **deciding(),
        "named_auc": "auc",
        "ours": Accuracy(),
        "auc": AUC(),
        "m": collection(),
    }
    model = KerasModel(net, "bce_with_logits", metrics)
    found = [model.evaluate((x, y), batch_size=size, verbose=0) for size in (1, 7, 64, SAMPLES)]
    for scores in found:
        del scores["val_loss"]
    assert found[0] == found[1] == found[2] == found[3]


def test_names_that_meet_are_refused_before_training():
    x, y = torch.randn(8, 2), torch.ones(8, 1)
    metrics = {"acc": "acc", "b_acc": "acc"}
    model = KerasModel(nn.Linear(2, 1), "bce_with_logits", metrics)
    with pytest.raises(ValueError, match="two values would have the name 'val_a_b_acc'; rename"):
        model.fit((x, y), {"a": (x, y), "a_b": (x, y)}, verbose=0)


def test_metrics_in_a_list_are_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"metrics_dict is a list; expected a dict .*'acc': 'acc'"):
        KerasModel(nn.Linear(2, 1), "mse", ["acc"])


@pytest.mark.parametrize("stage", ["training", "validation"])
def test_a_metric_that_cant_be_computed_tells_the_stage(stage):
    def broken(y_pred, y_true):
        return 1 / (len(y_true) - 8 * (stage == "training") - 4 * (stage == "validation"))

    train, val = (torch.randn(8, 2), torch.ones(8, 1)), (torch.randn(4, 2), torch.ones(4, 1))
    model = KerasModel(nn.Linear(2, 1), "bce_with_logits", {"m": whole_epoch(broken)})
    with pytest.raises(MetricError, match="metric 'm' cannot be computed: ") as told:
        model.fit(train, val, epochs=1, batch_size=3, verbose=0)
    assert told.value.__notes__ == [f"at the end of epoch 1, {stage}"]
