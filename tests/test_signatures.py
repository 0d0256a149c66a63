"""The order of arguments, read from their names."""

from functools import partial

import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional

from fitorch.signatures import name_of, takes_targets_first


class KerasLoss(nn.Module):
    def forward(self, y_true, y_pred):
        return (y_true - y_pred).abs().mean()


@pytest.mark.parametrize(
    "function",
    [
        metrics.r2_score,
        metrics.f1_score,
        metrics.roc_auc_score,
        partial(metrics.fbeta_score, beta=2.0),
        KerasLoss(),
        KerasLoss().forward,
        lambda y_true, y_pred, sample_weight=None: 0,
        lambda target, output: 0,
        lambda labels, logits: 0,
    ],
)
def test_targets_come_first_where_the_names_say_so(function):
    assert takes_targets_first(function)


@pytest.mark.parametrize(
    "function",
    [
        functional.mse_loss,
        functional.cross_entropy,
        nn.MSELoss(),
        torch.dist,
        len,
        lambda y_pred, y_true: 0,
        lambda a, b: 0,
        lambda y, x: 0,
        lambda y_true: 0,
        lambda *args: 0,
        lambda: 0,
    ],
)
def test_torchs_order_is_kept_where_the_names_leave_a_doubt(function):
    assert not takes_targets_first(function)


def test_a_function_is_named_through_partial_and_a_module_by_its_class():
    assert name_of(partial(metrics.fbeta_score, beta=2.0)) == "fbeta_score"
    assert name_of(KerasLoss()) == "KerasLoss"
