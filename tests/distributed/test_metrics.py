"""Metrics of several processes: ignored targets, axes of classes and soft targets."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC
from torchmetrics.wrappers import MinMaxMetric

from fitorch import KerasModel
from fitorch.metrics import Accuracy

C, T = 3, 3
SIZES, COUNTS = (1, 3, 40), (1, 2, 13)
KINDS = ("tokens", "weighted", "classes", "labels", "empty")


def soft_cross_entropy(y_pred, y_true):
    return -(y_true * y_pred.log_softmax(1)).sum(1).mean()


def of_tokens(y_pred, y_true):
    return functional.cross_entropy(y_pred.flatten(0, 1), y_true.flatten())


def data(kind, samples):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(13, T, 4, generator=generator).double()
    y = torch.randint(C, (13, T), generator=generator)
    if kind in ("classes", "labels"):
        soft = functional.one_hot(y[:, 0], C).double()
        soft[-1] = 1.0 if kind == "labels" else soft[-1]  # in one process alone
        return x[:samples, 0], soft[:samples]
    y = y.where(torch.rand(13, T, generator=generator) > 0.5, -100)
    y = torch.full_like(y, -100) if kind == "empty" else y
    weight = torch.rand(13, generator=generator).double()
    return (x[:samples], y[:samples], weight[:samples])[: 3 if kind == "weighted" else 2]


class Flat(nn.Module):
    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.last = nn.Linear(4, C).double(), last

    def forward(self, x):
        scores = self.linear(x)
        return scores if self.last else scores.movedim(-1, 1)


def measured(kind):
    soft, weighted = kind in ("classes", "labels"), kind == "weighted"
    loss_fn = soft_cross_entropy if soft else nn.CrossEntropyLoss() if weighted else of_tokens
    metrics = {"acc": "acc", "f1": "f1"}
    if not soft:
        metrics |= {
            "ours": Accuracy(),
            "theirs": MulticlassAccuracy(C),
            "auc": MulticlassAUROC(C),
            "wrapped": MinMaxMetric(MulticlassAccuracy(C)),
        }
    model = KerasModel(Flat(last=soft or not weighted), loss_fn, metrics)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for samples in COUNTS:
            for size in SIZES:
                values = model.evaluate(data(kind, samples), batch_size=size, verbose=0)
                found[samples, size] = {k: v for k, v in values.items() if k != "val_loss"}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_one_process(two, kind):
    expected = measured(kind)
    for samples in COUNTS:
        for size in SIZES:
            whole = expected[samples, SIZES[-1]]
            assert expected[samples, size] == pytest.approx(whole, rel=1e-6, nan_ok=True)
    for found in two.run(measured, kind):
        for case, values in expected.items():
            assert found[case] == pytest.approx(values, rel=1e-6, nan_ok=True), case
