"""Losses at work: torch's own values, whatever the batches, the weights and the way they reduce."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import Objective
from torch_losses import (
    ALL,
    CASES,
    EVERY,
    LABELS,
    REDUCING,
    SIZES,
    SOFT,
    TARGETS,
    UNEVEN,
    VALUES,
    WEIGHT,
    C,
    N,
    Reduced,
    batches,
    close,
    epoch,
    over,
    reduced,
    torchs,
)


def test_every_loss_of_torch_is_here():
    of_torch = {name for name in dir(nn) if name.endswith("Loss")}
    assert of_torch == {name.partition(",")[0] for name in ALL}


@EVERY
@SIZES
def test_the_loss_of_a_batch_is_torchs_own_to_the_bit(case, size):
    index = torch.arange(size)
    y_pred, y_true = over(case.y_pred, index, case.axis), over(case.y_true, index)
    ((value, _),) = Objective(case.make())(y_pred, y_true, None)
    torch.testing.assert_close(
        value, case.call(case.make(), y_pred, y_true), rtol=0, atol=0, equal_nan=True
    )


@EVERY
@SIZES
def test_the_mean_of_an_epoch_is_that_of_one_batch_with_everything(case, size):
    assert epoch(batches(reduced(case, "mean"), size)) == close(torchs(case))


@REDUCING
@SIZES
def test_the_sums_of_batches_add_up_to_the_sum_of_everything(case, size):
    values = [value.item() for value, _ in batches(reduced(case, "sum"), size)]
    assert sum(values) == close(torchs(case, "sum"))


@REDUCING
@SIZES
def test_losses_without_a_reduction_are_averaged_as_torch_does(case, size):
    if isinstance(case.make(), nn.KLDivLoss):
        case = case._replace(make=lambda reduction: nn.KLDivLoss(reduction=reduction))
        expected = F.kl_div(case.y_pred, case.y_true, reduction="sum").item() / (N * C)
    else:
        expected = torchs(case)
    assert epoch(batches(reduced(case, "none"), size)) == close(expected)


@EVERY
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sample_weights_of_one_change_nothing(case, reduction):
    for size in (7, 64):
        plain = list(batches(reduced(case, reduction), size))
        weighted = list(batches(reduced(case, reduction), size, torch.ones(N)))
        for (value, share), (same, same_share) in zip(plain, weighted, strict=True):
            if share:  # of nothing, torch's mean is NaN
                assert same.item() == close(value.item())
            assert float(same_share) == pytest.approx(float(share), rel=1e-6)


@EVERY
@SIZES
def test_whole_sample_weights_repeat_samples(case, size):
    weight = torch.arange(N) % 4
    figure = epoch(batches(reduced(case, "mean"), size, weight.double()))
    assert figure == close(torchs(case, repeats=weight))


@REDUCING
@SIZES
def test_whole_sample_weights_repeat_samples_in_a_sum(case, size):
    weight = torch.arange(N) % 4
    values = [value.item() for value, _ in batches(reduced(case, "sum"), size, weight.double())]
    assert sum(values) == close(torchs(case, "sum", repeats=weight))


@EVERY
def test_the_share_asked_for_beforehand_is_that_of_the_call(case):
    loss = Objective(case.make()).losses[0]
    weight = torch.rand(N, dtype=torch.float64)
    assert loss.normalizer(case.y_pred, case.y_true) == loss(case.y_pred, case.y_true, None)[1]
    if case.y_true is not None:
        later = loss(case.y_pred, case.y_true, weight)[1]
        assert loss.normalizer(None, case.y_true, weight).item() == pytest.approx(later.item())


@EVERY
def test_gradients_are_torchs_own(case):
    def gradients(call):
        leaves = over(case.y_pred, torch.arange(N), case.axis)
        leaves = leaves if isinstance(leaves, tuple) else (leaves,)
        leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
        y_pred = leaves if isinstance(case.y_pred, tuple) else leaves[0]
        return torch.autograd.grad(call(y_pred), leaves)

    expected = gradients(lambda y_pred: case.call(case.make(), y_pred, case.y_true))
    for weight in (None, torch.ones(N)):
        objective = Objective(case.make())
        found = gradients(lambda p, o=objective, w=weight: o(p, case.y_true, w)[0][0])
        torch.testing.assert_close(found, expected)


def test_a_loss_derived_from_torchs_is_averaged_like_it():
    class Own(nn.CrossEntropyLoss):
        pass

    case = CASES["CrossEntropyLoss, ignored pixels"]
    own = Reduced(Own(weight=WEIGHT), case.y_pred, case.y_true, 0)
    assert epoch(batches(own, 7)) == close(torchs(case))


# The seeds' numbers


def figure(loss_fn, y_pred, y_true):
    ((value, _),) = Objective(loss_fn)(y_pred, y_true, None)
    return round(value.item(), 4)


def test_binary_cross_entropy_is_that_of_the_seeds_both_ways():
    y_pred = torch.tensor([5.0, 3, 10, -5, -3, -10.0])
    y_true = torch.tensor([1.0, 1, 1, 0, 0, 0])
    assert figure("bce", y_pred.sigmoid(), y_true) == 0.0184
    assert figure("bce_with_logits", y_pred, y_true) == 0.0184
    y_pred, y_true = torch.tensor([-0.7001, -0.7231, -0.2049]), torch.tensor([0.0, 0.0, 1.0])
    assert figure("bce", y_pred.sigmoid(), y_true) == 0.5332
    assert figure("bce_with_logits", y_pred, y_true) == 0.5332


def test_cross_entropy_is_that_of_the_seeds_four_ways():
    y_pred = torch.tensor([[10.0, 0.0, -10.0], [8.0, 8.0, 8.0]])
    y_true = torch.tensor([0, 2])
    one_hot = F.one_hot(y_true, 3).float()
    assert figure("cross_entropy", y_pred, y_true) == 0.5493
    assert figure("nll", y_pred.log_softmax(1), y_true) == 0.5493
    assert figure("kl_div", y_pred.log_softmax(1), one_hot) == 0.5493
    assert figure("cross_entropy", y_pred, one_hot) == 0.5493


def test_cross_entropy_takes_one_hot_targets_as_in_the_seeds():
    y_pred = torch.tensor(
        [
            [0.5953, 0.9872, 0.7510],
            [0.9447, 0.0602, 0.7399],
            [0.2185, 0.6771, 0.0168],
            [0.7719, 0.8075, 0.7505],
        ]
    )
    y_true = torch.tensor([1, 0, 2, 1])
    assert figure("cross_entropy", y_pred, y_true) == 1.0491
    assert figure("cross_entropy", y_pred, F.one_hot(y_true, 3).float()) == 1.0491


# Sample weights, and targets of both forms


def test_sample_weights_may_be_a_column():
    loss = Objective("mse").losses[0]
    flat, column = (loss(VALUES, TARGETS, w)[0] for w in (UNEVEN, UNEVEN.unsqueeze(1)))
    assert torch.equal(flat, column)


def test_sample_weights_of_nothing_give_no_loss_and_no_share():
    assert Objective("mse").losses[0](VALUES, TARGETS, torch.zeros(N)) == (0, 0)


def test_the_loss_fn_itself_is_never_changed():
    loss_fn = nn.MSELoss()
    Objective(loss_fn)(VALUES, TARGETS, torch.ones(N))
    assert loss_fn.reduction == "mean"


def test_soft_targets_in_training_and_class_numbers_in_validation_go_together():
    loss_fn = nn.CrossEntropyLoss(weight=WEIGHT)
    (loss,) = Objective(loss_fn).losses
    for y_true in (SOFT, LABELS, SOFT):
        parts = [loss(VALUES[i], y_true[i], None) for i in torch.arange(N).split(7)]
        assert epoch(parts) == pytest.approx(loss_fn(VALUES, y_true).item(), rel=1e-12)
