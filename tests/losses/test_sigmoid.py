"""A sigmoid before a loss of logits, which trains badly without any error."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from fitorch.losses import DiceLoss, FocalLoss
from fitorch.losses.check import check

LOSSES = pytest.mark.parametrize(
    "loss_fn",
    [
        nn.BCEWithLogitsLoss(),
        nn.MultiLabelSoftMarginLoss(),
        functional.binary_cross_entropy_with_logits,
        FocalLoss(from_logits=True),
        DiceLoss(from_logits=True),
    ],
    ids=lambda loss: type(loss).__name__,
)
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(40, 2, generator=GENERATOR)
BITS = (torch.rand(40, 2, generator=GENERATOR) < 0.5).float()
WARNING = "expects logits, but predictions are probabilities; remove the sigmoid at the end"


def is_warned(loss_fn, y_pred, y_true=BITS):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(loss_fn, y_pred, y_true[: len(y_pred)].reshape(y_pred.shape))
    return any(WARNING in str(warning.message) for warning in caught)


@LOSSES
@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_sigmoid_is_seen_in_the_graph(loss_fn, size):
    x = LOGITS[:size].clone().requires_grad_()
    assert is_warned(loss_fn, (x * 0.01).sigmoid())
    assert is_warned(loss_fn, (x * 0.01).sigmoid().unsqueeze(1).squeeze(1).clone())


@LOSSES
def test_logits_of_a_graph_are_never_warned_of(loss_fn):
    x = torch.rand(40, 2, requires_grad=True)
    assert not is_warned(loss_fn, x * 1.0)


@LOSSES
def test_without_a_graph_the_values_decide(loss_fn):
    assert is_warned(loss_fn, (4 * LOGITS).sigmoid())
    assert not is_warned(loss_fn, (4 * LOGITS).sigmoid()[:10])
    assert not is_warned(loss_fn, LOGITS)
    assert not is_warned(loss_fn, LOGITS / 10 + 0.5)  # logits around a bias


@pytest.mark.parametrize("loss_fn", [nn.BCELoss(), FocalLoss(from_logits=False), nn.MSELoss()])
def test_losses_of_probabilities_are_left_alone(loss_fn):
    assert not is_warned(loss_fn, LOGITS.clone().requires_grad_().sigmoid())
