"""Which targets a loss leaves out, and where its classes lie."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fitorch.losses import FocalLoss, term
from fitorch.losses.class_targets import are_classes_last
from fitorch.losses.objective import Objective


class Own(nn.Module):
    """A loss of the user's."""

    def __init__(self, ignore_index=None):
        super().__init__()
        if ignore_index is not None:
            self.ignore_index = ignore_index

    def forward(self, y_pred, y_true):
        return functional.cross_entropy(y_pred, y_true)


@pytest.mark.parametrize(
    ("loss_fn", "output", "ignored"),
    [
        ("cross_entropy", (), -100),
        (nn.CrossEntropyLoss(ignore_index=255), (), 255),
        (nn.NLLLoss(ignore_index=0), (), 0),
        (functional.cross_entropy, (), -100),
        (partial(functional.nll_loss, ignore_index=3), (), 3),
        (2 * term(nn.CrossEntropyLoss(ignore_index=7)), (), 7),
        (Own(), (), -100),
        (Own(5), (), 5),
        (lambda p, t: functional.cross_entropy(p, t), (), -100),
        (None, (), -100),
        (None, ("logits",), -100),
        (FocalLoss(), (), None),
        ("mse", (), None),
        ("bce_with_logits", (), None),
        ({"a": nn.CrossEntropyLoss(ignore_index=1), "b": "mse"}, ("a",), 1),
        ({"a": nn.CrossEntropyLoss(ignore_index=1), "b": "mse"}, ("b",), None),
        ({"a": nn.CrossEntropyLoss(ignore_index=1), "b": "mse"}, ("c",), None),
    ],
)
def test_the_class_that_does_not_count(loss_fn, output, ignored):
    assert Objective(loss_fn).ignored_class(output) == ignored


P, Y = torch.randn(5, 4, 4), torch.randint(4, (5, 4))


@pytest.mark.parametrize(
    ("loss_fn", "last"),
    [
        (nn.CrossEntropyLoss(), False),
        (functional.cross_entropy, False),
        (FocalLoss(), False),
        (Own(), False),
        (lambda p, t: functional.cross_entropy(p.flatten(0, 1), t.flatten()), True),
        (lambda p, t: functional.cross_entropy(p.mT.reshape(-1, 4), t.flatten()), False),
        (lambda p, t: functional.cross_entropy(p.transpose(1, 2), t), True),
        (lambda p, t: functional.nll_loss(p.log_softmax(-1).movedim(-1, 1), t), True),
        (lambda p, t: functional.cross_entropy(p[t > 0], t[t > 0]), True),
        (lambda p, t: p.mean(), None),
        (lambda p, t: p["a"], None),
    ],
)  # fmt: skip
def test_the_calls_of_a_function_show_its_classes(loss_fn, last):
    assert are_classes_last(loss_fn, P, Y) is last


def test_it_leaves_no_trace_in_the_random_numbers():
    def noisy(p, t):
        return functional.cross_entropy(p + torch.rand(()), t)

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    are_classes_last(noisy, P, Y)
    assert torch.equal(torch.rand(3), expected)
