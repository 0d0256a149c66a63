"""Metrics in fit and evaluate: logits or probabilities, names, outputs, weights, kinds."""

import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torch import nn

from fitorch import KerasModel
from fitorch.losses import L2, FocalLoss, term
from fitorch.metrics import AUC, Accuracy, MetricError, Precision, whole_epoch
from fits.measured import (
    SAMPLES,
    binary,
    both,
    close,
    collection,
    deciding,
    drawn,
    judged,
    linear,
    multiclass,
    predicted,
    row_of,
    still,
    values,
)

BATCH_SIZES = pytest.mark.parametrize("batch_size", [1, 7, 64, SAMPLES])


def multilabel():
    x, generator = drawn(3)
    return x, (x + torch.randn(x.shape, generator=generator) > 0).float()


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


# Logits or probabilities.


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
