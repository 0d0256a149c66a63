"""Metrics in fit and evaluate: validation sets, outputs, weights, logits or probabilities."""

import copy
import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitorch import DataError, KerasModel
from fitorch.callbacks import EarlyStopping
from fitorch.losses import L2, FocalLoss, term
from fitorch.metrics import AUC, Accuracy, MetricError, Precision, whole_epoch

SAMPLES = 101
BATCH_SIZES = pytest.mark.parametrize("batch_size", [1, 7, 64, SAMPLES])


def still(parameters):
    """An optimizer that changes nothing."""
    return torch.optim.SGD(parameters, lr=0.0)


def drawn(seed, samples=SAMPLES, features=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, features, generator=generator), generator


def binary(samples=SAMPLES, noise=1.0, seed=1):
    x, generator = drawn(seed, samples)
    scores = x.sum(1, keepdim=True) + noise * torch.randn(samples, 1, generator=generator)
    return x, (scores > 0).float()


def multiclass():
    x, generator = drawn(2)
    return x, (x + torch.randn(x.shape, generator=generator)).argmax(1)


def multilabel():
    x, generator = drawn(3)
    return x, (x + torch.randn(x.shape, generator=generator) > 0).float()


def values(columns=True):
    x, generator = drawn(4)
    y = x.sum(1, keepdim=True) + torch.randn(SAMPLES, 1, generator=generator)
    return x, y if columns else y.squeeze(1)


def linear(outputs=1):
    torch.manual_seed(5)
    return nn.Linear(3, outputs)


class Flat(nn.Module):
    """A net whose output is (N,)."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return self.linear(x).squeeze(1)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.sex, self.age = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x):
        return {"sex": torch.sigmoid(self.sex(x)), "age": self.age(x)}


def small_logits():
    """A net whose logits lie in [0, 1] but for few, which are all read as positive."""
    net = linear()
    with torch.no_grad():
        net.weight.mul_(0.3)
        net.bias.fill_(0.3)
    return net


def row_of(model, data, batch_size=32, **options):
    frame = model.fit(data, data, epochs=1, batch_size=batch_size, verbose=0, **options)
    return frame.iloc[-1]


def both(row, name):
    """Return the figure of training, which is that of validation too, since weights stay."""
    assert row[f"train_{name}"] == pytest.approx(row[f"val_{name}"], rel=1e-5, abs=1e-6)
    return row[f"val_{name}"]


def predicted(net, x):
    with torch.no_grad():
        return net(x)


def close(value):
    return pytest.approx(float(value), rel=1e-5, abs=1e-6)


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


# Logits or probabilities.


def judged(scores, y):
    """Return what scikit-learn says of decisions."""
    y = y.reshape(-1)
    decided = np.asarray(scores).reshape(-1)
    return {
        "acc": sk.accuracy_score(y, decided),
        "f1": sk.f1_score(y, decided),
        "precision": sk.precision_score(y, decided),
        "recall": sk.recall_score(y, decided),
    }


def deciding():
    return {
        "acc": torchmetrics.classification.BinaryAccuracy(),
        "f1": torchmetrics.classification.BinaryF1Score(),
        "precision": Precision(),
        "recall": "recall",
    }


def custom_with_logits(y_pred, y_true):
    return nn.functional.binary_cross_entropy_with_logits(y_pred, y_true)


def custom_with_probabilities(y_pred, y_true):
    return nn.functional.binary_cross_entropy(y_pred, y_true)


@BATCH_SIZES
@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.BCEWithLogitsLoss(),
        FocalLoss(from_logits=True),
        0.5 * term(nn.BCEWithLogitsLoss()) + 1e-3 * L2(),
        custom_with_logits,
    ],
)
def test_logits_are_read_as_logits_whatever_the_batches(batch_size, loss_fn):
    x, y = binary()
    net = small_logits()
    scores = predicted(net, x)
    assert ((scores >= 0) & (scores <= 1)).double().mean() > 0.8
    row = row_of(KerasModel(net, loss_fn, deciding(), still), (x, y), batch_size)
    for name, expected in judged(scores > 0, y).items():
        assert both(row, name) == close(expected)


@BATCH_SIZES
@pytest.mark.parametrize("loss_fn", [nn.BCELoss(), FocalLoss(), custom_with_probabilities])
def test_probabilities_are_read_as_probabilities_whatever_the_batches(batch_size, loss_fn):
    x, y = binary()
    net = nn.Sequential(linear(), nn.Sigmoid())
    metrics = {**deciding(), "named": "acc", "ours": Accuracy(), "precise": "precision"}
    row = row_of(KerasModel(net, loss_fn, metrics, still), (x, y), batch_size)
    expected = judged(predicted(net, x) > 0.5, y)
    expected |= {
        "named": expected["acc"],
        "ours": expected["acc"],
        "precise": expected["precision"],
    }
    assert 0.2 < (predicted(net, x) > 0.5).double().mean() < 0.8
    for name, figure in expected.items():
        assert both(row, name) == close(figure)


# Names.


def test_names_on_a_binary_net():
    x, y = binary()
    model = KerasModel(
        linear(), "bce_with_logits", {n: n for n in ("acc", "f1", "auc", "precision", "recall")}
    )
    model.fit((x, y), (x, y), epochs=1, verbose=0)
    scores = model.predict(x, verbose=0)
    found = model.evaluate((x, y), batch_size=7, verbose=0)
    for name, expected in {**judged(scores > 0, y), "auc": sk.roc_auc_score(y, scores)}.items():
        assert found[f"val_{name}"] == close(expected)
    assert set(model.metric_tasks.values()) == {"binary"}


@pytest.mark.parametrize("loss_fn", ["cross_entropy", FocalLoss(from_logits=True)])
def test_names_on_a_net_of_several_classes(loss_fn):
    x, y = multiclass()
    names = ("acc", "f1", "auc", "precision", "balanced_accuracy", "kappa")
    model = KerasModel(linear(3), loss_fn, {n: n for n in names})
    model.fit((x, y), (x, y), epochs=1, verbose=0)
    scores = model.predict(x, verbose=0)
    found = model.evaluate((x, y), batch_size=7, verbose=0)
    decided = scores.argmax(1)
    expected = {
        "acc": sk.accuracy_score(y, decided),
        "f1": sk.f1_score(y, decided, average="macro"),
        "auc": sk.roc_auc_score(y, scores.softmax(1), multi_class="ovr"),
        "precision": sk.precision_score(y, decided, average="macro", zero_division=0),
        "balanced_accuracy": sk.balanced_accuracy_score(y, decided),
        "kappa": sk.cohen_kappa_score(y, decided),
    }
    for name in names:
        assert found[f"val_{name}"] == close(expected[name])
    assert model.metric_tasks == dict.fromkeys(names, "multiclass, 3 classes")


def test_names_on_a_net_of_several_labels():
    x, y = multilabel()
    names = ("acc", "f1", "auc", "precision")
    model = KerasModel(linear(3), "bce_with_logits", {n: n for n in names})
    model.fit((x, y), (x, y), epochs=1, verbose=0)
    scores = model.predict(x, verbose=0)
    found = model.evaluate((x, y), batch_size=7, verbose=0)
    decided = scores > 0
    expected = {
        "acc": (decided == y.bool()).double().mean(),
        "f1": sk.f1_score(y, decided, average="macro"),
        "auc": sk.roc_auc_score(y, scores),
        "precision": sk.precision_score(y, decided, average="macro"),
    }
    for name in names:
        assert found[f"val_{name}"] == close(expected[name])
    assert model.metric_tasks == dict.fromkeys(names, "multilabel, 3 labels")


@pytest.mark.parametrize("columns", [True, False])
def test_names_on_a_net_of_values(columns):
    x, y = values(columns)
    names = ("mae", "mse", "r2", "rmse")
    model = KerasModel(linear() if columns else Flat(), "mse", {n: n for n in names})
    model.fit((x, y), (x, y), epochs=1, verbose=0)
    scores = model.predict(x, verbose=0)
    found = model.evaluate((x, y), batch_size=7, verbose=0)
    expected = {
        "mae": sk.mean_absolute_error(y, scores),
        "mse": sk.mean_squared_error(y, scores),
        "r2": sk.r2_score(y, scores),
        "rmse": math.sqrt(sk.mean_squared_error(y, scores)),
    }
    for name in names:
        assert found[f"val_{name}"] == close(expected[name])
    assert model.metric_tasks == dict.fromkeys(names, "regression")


def test_a_fit_states_the_task_once_above_its_first_epoch(capsys):
    model = KerasModel(linear(3), "cross_entropy", {"acc": "acc", "f1": "f1"})
    model.fit(multiclass(), multiclass(), epochs=3, verbose=2)
    out = capsys.readouterr().out
    assert out.count("acc, f1: multiclass, 3 classes") == 1
    assert out.index("acc, f1: multiclass, 3 classes") < out.index("train_loss")


# Several outputs.


def two_headed(samples=SAMPLES):
    x, sex = binary(samples)
    return x, {"sex": sex, "age": x[:, :1] * 2 + 1}


def by_output():
    return {
        "sex": {"acc": "acc", "f1": torchmetrics.classification.BinaryF1Score()},
        "age": {"mae": "mae"},
    }


@BATCH_SIZES
def test_each_output_has_metrics_of_its_own(batch_size):
    x, y = two_headed()
    net = Heads()
    model = KerasModel(net, {"sex": "bce", "age": "mse"}, by_output(), still)
    row = row_of(model, (x, y), batch_size, monitor="val_sex_acc")
    outputs = predicted(net, x)
    sexes = judged(outputs["sex"] > 0.5, y["sex"])
    assert both(row, "sex_acc") == close(sexes["acc"])
    assert both(row, "sex_f1") == close(sexes["f1"])
    assert both(row, "age_mae") == close(sk.mean_absolute_error(y["age"], outputs["age"]))
    assert model.history.mode == "max"
    assert model.metric_tasks == {"sex_acc": "binary", "age_mae": "regression"}
    assert [n for n in row.index if n.startswith("train_")] == [
        "train_loss",
        "train_sex_acc",
        "train_sex_f1",
        "train_age_mae",
        "train_sex",
        "train_age",
    ]


def test_outputs_that_are_a_list_have_metrics_by_place():
    class Listed(Heads):
        def forward(self, x):
            return list(super().forward(x).values())

    x, y = two_headed()
    net = Listed()
    metrics = {0: {"acc": "acc"}, 1: {"mae": "mae"}}
    model = KerasModel(net, ["bce", "mse"], metrics, still)
    row = row_of(model, (x, [y["sex"], y["age"]]))
    sex, age = predicted(net, x)
    assert both(row, "output_0_acc") == close(sk.accuracy_score(y["sex"], sex > 0.5))
    assert both(row, "output_1_mae") == close(sk.mean_absolute_error(y["age"], age))


@dataclass
class Record:
    sex: Any
    age: Any


@pytest.mark.parametrize("form", [namedtuple("Named", ["sex", "age"]), Record])
def test_outputs_may_be_attributes(form):
    class Formed(Heads):
        def forward(self, x):
            return form(**super().forward(x))

    def spread(y_pred, _y_true):
        return y_pred.age.std()

    x, y = two_headed()
    net = Formed()
    metrics = {**by_output(), "spread": spread}
    model = KerasModel(net, {"sex": "bce", "age": "mse"}, metrics, still)
    row = row_of(model, (x, y), SAMPLES)
    outputs = predicted(net, x)
    assert both(row, "sex_acc") == close(sk.accuracy_score(y["sex"], outputs.sex > 0.5))
    assert both(row, "age_mae") == close(sk.mean_absolute_error(y["age"], outputs.age))
    assert both(row, "spread") == close(outputs.age.std())


def test_the_direction_of_an_outputs_metric_may_be_down():
    model = KerasModel(Heads(), {"sex": "bce", "age": "mse"}, by_output())
    model.fit(two_headed(), two_headed(), epochs=1, monitor="val_age_mae", verbose=0)
    assert model.history.mode == "min"


def test_metrics_of_an_output_that_is_not_there_are_refused_before_the_update():
    net = Heads()
    before = net.sex.weight.detach().clone()
    model = KerasModel(net, {"sex": "bce", "age": "mse"}, {"sx": {"acc": "acc"}})
    with pytest.raises(MetricError, match=r"'sx'.*\['sex', 'age'\]"):
        model.fit(two_headed(), epochs=1, verbose=0)
    assert torch.equal(net.sex.weight, before)


# Weights.


@pytest.mark.parametrize("batch_size", [7, 64, SAMPLES])
@pytest.mark.parametrize("columns", [True, False])
def test_samples_weigh_in_metrics_as_in_scikit_learn(batch_size, columns):
    x, y = binary()
    weight = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(8)) + 0.1
    net = linear()

    def error(y_pred, y_true):
        return (y_pred - y_true).abs().mean()

    metrics = {
        "acc": "acc",
        "ours": Accuracy(),
        "auc": AUC(),
        "named_auc": "auc",
        "precision": Precision(),
        "plain": torchmetrics.classification.BinaryAccuracy(),
        "error": error,
    }
    model = KerasModel(net, "bce_with_logits", metrics, still)
    data = (x, y, weight.unsqueeze(1) if columns else weight)
    row = row_of(model, data, batch_size)
    scores = predicted(net, x)
    target = y.squeeze(1)
    decided = scores.squeeze(1) > 0
    accuracy = sk.accuracy_score(target, decided, sample_weight=weight)
    area = sk.roc_auc_score(target, scores, sample_weight=weight)
    assert both(row, "acc") == close(accuracy)
    assert both(row, "ours") == close(accuracy)
    assert both(row, "auc") == close(area)
    assert both(row, "named_auc") == close(area)
    assert both(row, "precision") == close(
        sk.precision_score(target, decided, sample_weight=weight)
    )
    assert both(row, "plain") == close(sk.accuracy_score(target, decided))
    assert both(row, "error") == close((scores - y).abs().mean())
    assert row["val_acc"] != close(row["val_plain"])


def test_class_weights_leave_metrics_alone():
    x, y = multiclass()
    net = linear(3)
    model = KerasModel(net, "cross_entropy", {"acc": "acc", "ours": Accuracy()}, still)
    row = row_of(model, (x, y), class_weight={0: 9.0, 1: 0.0})
    expected = close(sk.accuracy_score(y, predicted(net, x).argmax(1)))
    assert both(row, "acc") == expected
    assert both(row, "ours") == expected


# Metrics of other kinds.


def test_a_function_of_scikit_learn_sees_the_whole_epoch():
    x, y = binary()
    metric = whole_epoch(sk.roc_auc_score, higher_is_better=True)
    model = KerasModel(linear(), "bce_with_logits", {"auc": metric})
    frame = model.fit((x, y), (x, y), epochs=2, batch_size=7, monitor="val_auc", verbose=0)
    assert model.history.mode == "max"
    expected = sk.roc_auc_score(y, model.predict(x, verbose=0))
    assert frame["val_auc"].iloc[-1] == close(expected)
    assert not metric._kept


def test_a_module_as_torchkeras_has_them_counts_each_batch_once():
    class Share(nn.Module):
        """The share of positive predictions."""

        def __init__(self):
            super().__init__()
            self.found, self.calls = 0, 0

        def forward(self, preds, targets):
            self.found += int((preds > 0).sum())
            self.calls += len(targets)
            return self.found / self.calls

        def compute(self):
            return self.found / self.calls

        def reset(self):
            self.found = self.calls = 0

    x, y = binary()
    metric = Share()
    model = KerasModel(linear(), "bce_with_logits", {"share": metric}, still)
    row = row_of(model, (x, y), 7)
    assert both(row, "share") == close((predicted(model.net, x) > 0).double().mean())
    assert metric.calls == 0


def collection():
    kinds = torchmetrics.classification
    return torchmetrics.MetricCollection(
        [kinds.BinaryAccuracy(), kinds.BinaryPrecision(), kinds.BinaryHammingDistance()]
    )


@BATCH_SIZES
def test_a_collection_gives_a_column_for_each_member(batch_size):
    x, y = binary()
    net = small_logits()
    model = KerasModel(net, "bce_with_logits", {"m": collection()}, still)
    row = row_of(model, (x, y), batch_size, monitor="val_m_BinaryAccuracy")
    assert model.history.mode == "max"
    expected = judged(predicted(net, x) > 0, y)
    assert both(row, "m_BinaryAccuracy") == close(expected["acc"])
    assert both(row, "m_BinaryPrecision") == close(expected["precision"])
    assert both(row, "m_BinaryHammingDistance") == close(1 - expected["acc"])


def test_the_direction_of_a_collections_member_may_be_down():
    model = KerasModel(linear(), "bce_with_logits", {"m": collection()})
    monitor = "val_m_BinaryHammingDistance"
    model.fit(binary(), binary(), epochs=1, monitor=monitor, verbose=0)
    assert model.history.mode == "min"


def test_a_collection_updates_once_for_a_group_of_members(monkeypatch):
    updates = []
    for kind in (
        torchmetrics.classification.BinaryPrecision,
        torchmetrics.classification.BinaryRecall,
    ):

        def count(self, *args, _update=kind.update, _name=kind.__name__):
            updates.append(_name)
            _update(self, *args)

        monkeypatch.setattr(kind, "update", count)
    members = [
        torchmetrics.classification.BinaryPrecision(),
        torchmetrics.classification.BinaryRecall(),
    ]
    metrics = {"m": torchmetrics.MetricCollection(members)}
    model = KerasModel(linear(), "bce_with_logits", metrics)
    model.evaluate(binary(), batch_size=1, verbose=0)
    # the first batch goes to both, which are found to keep the same; the others go to one of them
    assert sorted(updates) == [
        "BinaryPrecision",
        "BinaryPrecision",
        "BinaryPrecision",
        "BinaryRecall",
    ]


@pytest.mark.parametrize(("higher", "mode"), [(True, "max"), (False, "min")])
def test_a_function_can_carry_its_direction(higher, mode):
    def figure(y_pred, y_true):
        return (y_pred - y_true).abs().mean()

    figure.higher_is_better = higher
    model = KerasModel(linear(), "mse", {"figure": figure})
    model.fit(values(), values(), epochs=1, monitor="val_figure", verbose=0)
    assert model.history.mode == mode


def test_a_function_without_a_direction_asks_for_it():
    def figure(y_pred, y_true):
        return (y_pred - y_true).abs().mean()

    model = KerasModel(linear(), "mse", {"figure": figure})
    with pytest.raises(ValueError, match="pass mode='max' or mode='min'"):
        model.fit(values(), values(), epochs=1, monitor="val_figure", verbose=0)


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
    for part in ("metric 'picky'", "epoch 1", "val_data['noisy'] batch 1", "no such size"):
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
