"""Data, nets and comparisons that tests of metrics in `fit` share."""

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torch import nn

from fitorch.metrics import Precision

SAMPLES = 101


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


def values(columns=True):
    x, generator = drawn(4)
    y = x.sum(1, keepdim=True) + torch.randn(SAMPLES, 1, generator=generator)
    return x, y if columns else y.squeeze(1)


def linear(outputs=1):
    torch.manual_seed(5)
    return nn.Linear(3, outputs)


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


def collection():
    kinds = torchmetrics.classification
    return torchmetrics.MetricCollection(
        [kinds.BinaryAccuracy(), kinds.BinaryPrecision(), kinds.BinaryHammingDistance()]
    )
