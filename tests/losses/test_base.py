"""What holds for all losses of ours."""

import copy
import inspect
import pickle

import pytest
import torch

import fitorch.losses
from fitorch.losses import Objective, ReducedLoss, check
from fitorch.losses.registry import LOSSES

OURS = [
    kind
    for _, kind in inspect.getmembers(fitorch.losses, inspect.isclass)
    if issubclass(kind, ReducedLoss) and kind is not ReducedLoss
]
EVERY = pytest.mark.parametrize("kind", OURS)
P, Y = torch.rand(6, 4), torch.rand(6, 4).round()


@EVERY
def test_every_loss_has_a_name(kind):
    assert kind in LOSSES.values()


@EVERY
def test_reductions_are_those_of_the_losses_per_sample(kind):
    losses = kind(reduction="none")(P, Y)
    assert losses.shape[0] == 6
    torch.testing.assert_close(kind(reduction="none").unreduced(P, Y), losses)
    torch.testing.assert_close(kind()(P, Y), losses.mean())
    torch.testing.assert_close(kind(reduction="sum")(P, Y), losses.sum())


@EVERY
@pytest.mark.parametrize("reduction", ["average", None, "batchmean", 1])
def test_another_reduction_is_refused(kind, reduction):
    message = f"reduction must be one of mean, sum, none, got {reduction!r}"
    with pytest.raises(ValueError, match=message):
        kind(reduction=reduction)


@EVERY
def test_copies_and_pickles_are_the_same_loss(kind):
    loss = kind()
    for same in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(same) == repr(loss)
        assert torch.equal(same(P, Y), loss(P, Y))


@EVERY
def test_what_fits_is_not_refused(kind):
    check(kind(), P, Y)


@EVERY
def test_every_loss_takes_part_in_arithmetic(kind):
    torch.testing.assert_close((2 * kind() - kind() / 2)(P, Y), 1.5 * kind()(P, Y))


@EVERY
def test_an_empty_batch_has_no_losses(kind):
    assert kind(reduction="none")(P[:0], Y[:0]).numel() == 0
    assert kind(reduction="sum")(P[:0], Y[:0]) == 0


class Quartic(ReducedLoss):
    """Says nothing about what fits it."""

    def unreduced(self, y_pred, y_true):
        return (y_pred - y_true).pow(4)


def test_a_loss_of_ones_own_needs_only_its_losses():
    check(Quartic(), P, Y)
    ((value, share),) = Objective(Quartic())(P, Y, torch.arange(6.0))
    losses = (P - Y).pow(4).mean(1)
    torch.testing.assert_close(value, (losses * torch.arange(6)).sum() / 15)
    assert share == 15
    assert repr(0.1 * Quartic()) == "0.1 * Quartic()"


def test_a_loss_must_say_what_it_is():
    with pytest.raises(NotImplementedError):
        ReducedLoss()(P, Y)
