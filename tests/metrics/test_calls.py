"""The order of a metric's arguments, and what it gets of an output with logits."""

import warnings
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from sklearn import metrics as sk
from torch import nn
from torchmetrics import Metric

from fitorch.metrics import Accuracy, MetricSet, calls, whole_epoch

CPU = torch.device("cpu")
P, Y = torch.tensor([0.2, 0.9, 0.4, 0.7]), torch.tensor([0.0, 1.0, 0.3, 0.5])


@pytest.fixture(autouse=True)
def unreported(monkeypatch):
    monkeypatch.setattr(calls, "_reported", set())


def above(y_true, y_pred):
    return (y_true > y_pred).float().mean()


class Above:
    def __init__(self):
        self.reset()

    def update(self, y_true, y_pred):
        self.above, self.total = self.above + int((y_true > y_pred).sum()), self.total + len(y_true)

    def compute(self):
        return self.above / self.total

    def reset(self):
        self.above = self.total = 0


class AboveMetric(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("above", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, target, preds):
        self.above, self.total = self.above + (target > preds).sum(), self.total + len(target)

    def compute(self):
        return self.above / self.total


class Called(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Above()

    def forward(self, y_true, y_pred):
        self.inner.update(y_true, y_pred)

    def compute(self):
        return self.inner.compute()

    def reset(self):
        self.inner.reset()


def value_of(metric):
    metric_set = MetricSet({"m": metric}, CPU)
    for batch in zip(P.split(2), Y.split(2), strict=True):
        metric_set.update(*batch)
    return metric_set.compute()["m"]


@pytest.mark.parametrize(
    "make",
    [lambda: above, Above, AboveMetric, Called, lambda: whole_epoch(above)],
    ids=["function", "object", "torchmetrics", "module", "whole epoch"],
)
def test_targets_come_first_if_the_names_say_so(make):
    with pytest.warns(UserWarning, match=r"takes \(y_true, y_pred\), so it is called with the"):
        value = value_of(make())
    assert value == pytest.approx(0.25)


def test_each_function_is_reported_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value_of(above)
        value_of(above)
    assert len(caught) == 1


def test_functions_of_scikit_learn_get_arrays():
    with pytest.warns(UserWarning, match=r"whole_epoch\(mean_absolute_error\) is that of the"):
        value = value_of(sk.mean_absolute_error)
    assert value == pytest.approx(sk.mean_absolute_error(Y, P))
    quantile = partial(sk.mean_pinball_loss, alpha=0.9)
    assert value_of(whole_epoch(quantile)) == pytest.approx(quantile(Y.numpy(), P.numpy()))
    with pytest.warns(UserWarning, match="mean_pinball_loss takes"):
        assert value_of(quantile) == pytest.approx(quantile(Y.numpy(), P.numpy()))


class Output(OrderedDict):
    """An output as Hugging Face has them: keys and attributes."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


OUTPUTS = {
    "namespace": lambda logits, extra: SimpleNamespace(logits=logits, extra=extra),
    "mapping": lambda logits, extra: {"logits": logits, "extra": extra},
    "output": lambda logits, extra: Output(logits=logits, extra=extra),
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_functions_get_the_output_as_the_net_returned_it(form):
    logits = torch.randn(6, 3, requires_grad=True)
    numbers = torch.tensor([0, 1, 2, 0, 1, 2])
    seen = []

    def look(y_pred, y_true):
        seen.append(y_pred)
        return 0.0

    class Look(Above):
        def update(self, prediction, y_true):
            seen.append(prediction)
            super().update(torch.zeros(1), torch.zeros(1))

    output = OUTPUTS[form](logits, logits + 1)
    metric_set = MetricSet({"look": look, "own": Look(), "acc": "acc", "ours": Accuracy()}, CPU)
    metric_set.update(output, numbers)
    values = metric_set.compute()
    accuracy = pytest.approx(float((logits.argmax(1) == numbers).float().mean()))
    assert (values["acc"], values["ours"]) == (accuracy, accuracy)
    for got in seen:
        assert type(got) is type(output)
        extra = got["extra"] if form == "mapping" else got.extra
        assert torch.equal(extra, logits + 1)
        assert not extra.requires_grad
    assert (output["extra"] if form == "mapping" else output.extra).requires_grad


def test_a_loss_before_the_logits_is_not_compared():
    logits, numbers = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    metric_set = MetricSet({"acc": "acc"}, CPU)
    metric_set.update((torch.tensor(0.5), logits), numbers)
    expected = float((logits.argmax(1) == numbers).float().mean())
    assert metric_set.compute()["acc"] == pytest.approx(expected)
