"""Losses of nets with several outputs."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import MisfitError, Objective
from torch_losses import LABELS, PIXELS, TARGETS, UNEVEN, VALUES, N


def test_a_loss_sees_its_own_output_targets_and_weights():
    objective = Objective({"age": nn.L1Loss(), "kind": {"sex": nn.CrossEntropyLoss()}})
    y_pred = {"age": VALUES, "kind": {"sex": PIXELS[:, :, 0, 0]}, "unused": None}
    y_true = {"age": TARGETS, "kind": {"sex": LABELS}}
    weight = {"age": UNEVEN, "kind": {"sex": torch.ones(N)}}
    (age, age_share), (sex, sex_share) = objective(y_pred, y_true, weight)
    assert age.item() == pytest.approx(
        ((VALUES - TARGETS).abs().mean(1) * UNEVEN).sum().item() / UNEVEN.sum().item()
    )
    assert (age_share, sex_share) == (UNEVEN.sum(), N)
    assert sex.item() == pytest.approx(F.cross_entropy(PIXELS[:, :, 0, 0], LABELS).item())


class Output(NamedTuple):
    logits: Any
    value: Any


@pytest.mark.parametrize(
    ("loss_fn", "y_pred"),
    [
        (["mse", "cross_entropy"], (VALUES, VALUES)),
        (["mse", "cross_entropy"], Output(VALUES, VALUES)),
        ({"value": "mse", "logits": "cross_entropy"}, {"logits": VALUES, "value": VALUES}),
    ],
)
def test_outputs_are_told_by_position_or_key(loss_fn, y_pred):
    y_true: Any = {"value": TARGETS, "logits": LABELS}
    y_true = [TARGETS, LABELS] if isinstance(loss_fn, list) else y_true
    (mse, _), (ce, _) = Objective(loss_fn)(y_pred, y_true, None)
    assert torch.equal(mse, F.mse_loss(VALUES, TARGETS))
    assert torch.equal(ce, F.cross_entropy(VALUES, LABELS))


def test_outputs_may_be_attributes():
    ((value, share),) = Objective({"logits": "mse"})(
        SimpleNamespace(logits=VALUES), {"logits": TARGETS}, None
    )
    assert (value, share) == (F.mse_loss(VALUES, TARGETS), N)


@pytest.mark.parametrize(
    ("y_pred", "y_true", "message"),
    [
        ({"b": VALUES}, {"data": TARGETS}, r"the net's output has the keys \['b'\]; use their"),
        (VALUES, {"data": TARGETS}, "the net's output has one Tensor"),
        ((VALUES,), {"data": TARGETS}, "the net's output has 1 part;"),
    ],
)
def test_a_missing_output_is_named(y_pred, y_true, message):
    with pytest.raises(MisfitError, match=f"there is a loss for output 'data', but {message}"):
        Objective({"data": "mse"})(y_pred, y_true, None)
