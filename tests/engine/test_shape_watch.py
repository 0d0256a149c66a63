"""Later batches of other shapes are checked against the losses, as the first one is."""

import warnings

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.engine.steps.shape_watch import ShapeWatch
from fitorch.errors import DataError
from fitorch.losses.objective import Objective

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(9, 3, generator=GENERATOR)
Y = torch.randn(9, 1, generator=GENERATOR)
ALL_PAIRS = pytest.warns(UserWarning, match="broadcast to a matrix of all pairs")


def own(y_pred, y_true):
    return (y_pred - y_true).square().mean()


def fit(batches, loss=own, val_data=None, net=None, **arguments):
    model = KerasModel(net or nn.Linear(3, 1), loss, optimizer="sgd")
    return model.fit(batches, val_data, epochs=1, batch_size=None, verbose=0, **arguments)


FIRST_ALONE = [(X[:1], Y[:1, 0]), (X[1:5], Y[1:5, 0]), (X[5:], Y[5:, 0])]
LATER = [(X[:4], Y[:4]), (X[4:], Y[4:, 0])]


@pytest.mark.parametrize("batches", [FIRST_ALONE, LATER])
def test_a_later_batch_that_compares_all_pairs_is_warned_of_once(batches):
    with ALL_PAIRS as caught:
        fit(batches)
    assert len(caught) == 1


def test_a_batch_of_validation_is_looked_at_too():
    with ALL_PAIRS as caught:
        fit([(X, Y)], val_data=FIRST_ALONE)
    assert len(caught) == 1


def test_a_loss_of_torch_refuses_a_later_batch_as_it_refuses_the_first():
    with pytest.raises(DataError, match=r"MSELoss got predictions of shape \(5, 1\)") as caught:
        fit(LATER, nn.MSELoss())
    assert "epoch 1, training batch 2" in str(caught.value)


def test_a_loss_of_one_output_is_looked_at():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return {"a": self.linear(x), "b": self.linear(x)}

    batches = [(x, {"a": y[:, None], "b": y}) for x, y in FIRST_ALONE]
    with ALL_PAIRS as caught:
        fit(batches, {"a": own, "b": own}, net=Two())
    assert len(caught) == 1


class Squeezed(nn.Linear):
    """Returns (N,), and () for a batch of one."""

    def forward(self, x):
        return super().forward(x).squeeze()


@pytest.mark.parametrize("loss", [own, nn.MSELoss()])
@pytest.mark.filterwarnings("ignore:Using a target size")  # torch compares () with (1,)
def test_batches_of_other_sizes_are_no_mistake(loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Using a target size")
        fit([(X[:4], Y[:4]), (X[4:], Y[4:]), (X[:1], Y[:1])], loss)
        fit([(X[:4], Y[:4, 0]), (X[:1], Y[:1, 0])], loss, net=Squeezed(3, 1))


def test_equal_shapes_are_compared_alone():
    calls = []

    class Watched(ShapeWatch):
        def _find(self, y_pred, y_true):
            calls.append(y_pred.shape)
            return super()._find(y_pred, y_true)

    watch = Watched(Objective(own), X[:4], Y[:4])
    for size in (4, 4, 3, 3):
        watch(X[:size, :1], Y[:size])
    assert calls == [(4, 3), (4, 1), (3, 1)]
