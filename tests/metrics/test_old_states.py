"""States of metrics in checkpoints of version 0.1, in the middle of an epoch."""

import pytest
import torch

from fitorch.metrics import Accuracy
from fitorch.metrics.factory import make_metric

CPU = torch.device("cpu")
PRED, TRUE = torch.tensor([2.0, -1.0, 0.5, -3.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])


def test_a_function_had_one_mean():
    metric = make_metric("bias", lambda y_pred, y_true: (y_pred - y_true).mean(), CPU)
    metric.load_state_dict({"total": 6.0, "count": 4.0})
    assert metric.compute() == 1.5
    metric.update(PRED, TRUE)
    assert metric.compute() == pytest.approx((6.0 + (PRED - TRUE).sum().item()) / 8)


def test_a_metric_of_ours_read_targets_as_labels():
    metric = make_metric("acc", Accuracy(), CPU)
    metric.update(PRED, TRUE)
    metric.load_state_dict(metric.state_dict()["labels"])
    metric.update(PRED, TRUE)
    assert metric.compute() == pytest.approx(0.75)
