"""Forms of metrics, weights and nets that a first batch does not show, or that look like others."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.text import Perplexity

from fitorch import DataError, KerasModel
from fitorch.callbacks import EarlyStopping, LambdaCallback
from fitorch.metrics import MetricError, whole_epoch

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(22, 3, generator=GENERATOR)
Y = torch.randint(3, (22,), generator=GENERATOR)


def identity():
    return KerasModel(nn.Identity(), "mse")


class Refilled(IterableDataset):
    """Yields batches in the same memory, as readers of large files do."""

    def __iter__(self):
        x, y = torch.empty(6), torch.empty(6)
        for start in range(0, 18, 6):
            x.copy_(X[start : start + 6, 0])
            y.copy_((X[start : start + 6, 1] > 0).float())
            yield x, y


@pytest.mark.parametrize("metric", ["auc", whole_epoch(roc_auc_score)], ids=["auc", "whole_epoch"])
def test_metrics_of_batches_that_share_memory_are_those_of_all(metric):
    model = KerasModel(nn.Identity(), "bce_with_logits", {"m": metric})
    data = DataLoader(Refilled(), batch_size=None)
    expected = roc_auc_score(X[:18, 1] > 0, X[:18, 0])
    assert model.evaluate(data, verbose=0)["val_m"] == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [8, 22])
@pytest.mark.parametrize("loss", ["mse", lambda p, t: (p - t).square().mean()])
def test_a_task_that_later_batches_contradict_is_an_error(loss, batch_size):
    y = torch.arange(22).div(4, rounding_mode="floor").float()  # 0 and 1 at first
    model = KerasModel(nn.Identity(), loss, {"acc": "acc"})
    with pytest.raises(MetricError, match=r"regression|outside of \[0, 1\]"):
        model.evaluate((X[:, 0], y), batch_size=batch_size, verbose=0)


def test_a_metric_of_keras_is_refused_by_name():
    class MeanSquaredError:
        def __call__(self, y_true, y_pred):
            return 0.0

        def update_state(self, y_true, y_pred): ...

        def result(self): ...

    model = KerasModel(nn.Identity(), "mse", {"m": MeanSquaredError()})
    with pytest.raises(TypeError, match="'m' is a MeanSquaredError of Keras"):
        model.evaluate((X, X), verbose=0)


def test_a_function_with_a_number_for_each_sample_is_refused():
    model = KerasModel(nn.Identity(), "mse", {"mae": lambda p, t: (p - t).abs()})
    with pytest.raises(MetricError, match=r"numbers for one batch .* with \.mean\(\)"):
        model.evaluate((X[:, 0], X[:, 1]), batch_size=8, verbose=0)


@pytest.mark.parametrize("batch_size", [1, 5, 22])
def test_balanced_accuracy_is_that_of_scikit_learn_if_a_class_is_missing(batch_size):
    y = Y.clamp(max=1)  # class 2 is predicted, but does not occur
    model = KerasModel(nn.Identity(), "cross_entropy", {"m": "balanced_accuracy"})
    scores = model.evaluate((X, y), batch_size=batch_size, verbose=0)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(y, X.argmax(1))
    assert scores["val_m"] == pytest.approx(expected)


@pytest.mark.parametrize("classes", [5, 7])
def test_the_perplexity_of_tokens_is_that_of_torchmetrics(classes):
    logits = torch.randn(6, 5, classes)
    tags = torch.randint(classes, (6, 5))

    def loss(y_pred, y_true):
        return nn.functional.cross_entropy(y_pred.flatten(0, 1), y_true.flatten())

    scores = KerasModel(nn.Identity(), loss, {"m": Perplexity()}).evaluate(
        (logits, tags), batch_size=4, verbose=0
    )
    expected = Perplexity()
    expected.update(logits, tags)
    assert scores["val_m"] == pytest.approx(expected.compute().item(), rel=1e-5)


def train_loss(class_weight):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(3, 3), "cross_entropy", None, lambda p: torch.optim.SGD(p, 0.0))
    frame = model.fit((X, Y), epochs=1, verbose=0, class_weight=class_weight)
    return frame["train_loss"][0]


def test_class_weights_of_a_series_go_by_its_index():
    weights = {0: 1.0, 1: 2.0, 2: 5.0}
    series = pd.Series({2: 5.0, 0: 1.0, 1: 2.0})  # in the order of value_counts()
    assert train_loss(series) == train_loss(weights)
    assert train_loss(np.array([1.0, 2.0, 5.0])) == train_loss(weights)


def test_a_sequence_of_class_weights_has_one_for_each_class():
    with pytest.raises(DataError, match="2 weights, but the task is multiclass, 3 classes"):
        train_loss([1.0, 2.0])


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_sample_weights_are_not_negative(weight):
    weights = torch.ones(22)
    weights[3] = weight
    with pytest.raises(DataError, match="sample_weight has the value"):
        identity().evaluate((X, X, weights), verbose=0)


@pytest.mark.parametrize("monitor", [3, None])
def test_a_monitor_is_a_name(monitor):
    model = KerasModel(nn.Linear(3, 1), "mse")
    data = X, X[:, :1]
    with pytest.raises(TypeError, match=r"monitor is (3|None); expected the name of a column"):
        model.fit(data, data, epochs=1, verbose=0, monitor=monitor)
    if monitor is not None:
        with pytest.raises(TypeError, match="monitor is 3; expected the name of a column"):
            EarlyStopping(monitor=monitor)


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin"])
def test_a_layer_that_a_callback_replaces_is_said_not_to_train(hook):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))

    def replace(*_):
        if len(net) == 2:
            net.append(nn.Linear(1, 1))

    model = KerasModel(net, "mse", optimizer="adam")
    with pytest.warns(UserWarning, match=r"2 new parameters \(2.weight, 2.bias\) within a fit"):
        model.fit((X, X[:, :1]), epochs=2, verbose=0, callbacks=[LambdaCallback(**{hook: replace})])


def test_a_squeezed_first_batch_of_one_is_checked_like_any_other():
    class Squeezing(nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze()

    def loss(y_pred, y_true):
        return (y_pred - y_true.view_as(y_pred)).square().mean()

    KerasModel(Squeezing(3, 1), loss).fit((X[:3], X[:3, 0]), epochs=1, batch_size=1, verbose=0)
