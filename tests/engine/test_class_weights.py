"""Class weights: which class a target is of, and which weights are accepted."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from fitorch import DataError, KerasModel
from fitorch.engine.class_weights import ClassWeights
from fitorch.losses import term

torch.manual_seed(0)
N = 24
X = torch.randn(N, 4)
CLASSES = torch.arange(N) % 3
BINARY = CLASSES.eq(1).float()[:, None]
ONE_HOT = nn.functional.one_hot(CLASSES, 3).float()
WEIGHTS = {0: 1.0, 1: 5.0, 2: 0.5}


def loss_of(y, outputs, loss_fn, **options):
    torch.manual_seed(1)
    model = KerasModel(nn.Linear(4, outputs), loss_fn, None, lambda p: torch.optim.SGD(p, 0.0))
    options = {"epochs": 1, "batch_size": 7, "verbose": 0, "class_weight": WEIGHTS, **options}
    frame = model.fit((X, y), **options)
    return frame["train_loss"][0], model.net(X).detach()


def mean(losses, weights):
    return pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-5)


CASES = {
    "class numbers": (CLASSES, CLASSES),
    "one-hot": (ONE_HOT, CLASSES),
    "smoothed": (0.9 * ONE_HOT + 0.1 / 3, CLASSES),
    "soft": (torch.tensor([0.5, 0.3, 0.2]).repeat(N, 1), torch.zeros(N, dtype=torch.long)),
}


@pytest.mark.parametrize(("y", "classes"), CASES.values(), ids=CASES)
def test_classes_of_many(y, classes):
    value, y_pred = loss_of(y, 3, "cross_entropy")
    weights = torch.tensor([*WEIGHTS.values()])[classes]
    assert value == mean(cross_entropy(y_pred, y, reduction="none"), weights)


BINARIES = {
    "numbers": BINARY,
    "smoothed": 0.9 * BINARY + 0.05,
    "soft": torch.where(BINARY > 0, 0.6, 0.4),
}


@pytest.mark.parametrize("y", BINARIES.values(), ids=BINARIES)
def test_classes_of_two(y):
    value, y_pred = loss_of(y, 1, "bce_with_logits", class_weight={0: 1.0, 1: 5.0})
    losses = binary_cross_entropy_with_logits(y_pred, y, reduction="none")
    assert value == mean(losses, torch.where(BINARY > 0, 5.0, 1.0))


@pytest.mark.parametrize("y", [BINARY > 0, BINARY.long(), BINARY.double(), BINARY[:, 0]])
def test_targets_of_any_dtype_have_the_same_classes(y):
    weights = ClassWeights({0: 1.0, 1: 5.0}, torch.device("cpu"), kind="logits")
    expected = torch.where(BINARY > 0, 5.0, 1.0)[:, 0]
    assert torch.equal(weights(y, None), expected)


def test_labels_of_their_own_are_refused_even_if_the_first_batch_is_one_hot():
    labels = ONE_HOT.clone()
    labels[-1] = 1.0
    with pytest.raises(DataError, match=r"one class per sample.*pos_weight"):
        loss_of(labels, 3, "bce_with_logits", shuffle=False)


def test_a_loss_that_does_not_tell_is_checked_in_each_batch():
    each = term(lambda p, t: (p - t).square().mean(1), per_sample=True)
    assert loss_of(ONE_HOT, 3, each)[0] > 0
    later = ONE_HOT.clone()
    later[-1] = 1.0
    with pytest.raises(DataError, match="one class per sample"):
        loss_of(later, 3, each, shuffle=False)


GIVEN = {
    "scikit-learn's idiom": dict(zip(np.unique(CLASSES.numpy()), [1.0, 5.0, 0.5], strict=True)),
    "keys that are floats": {0.0: 1.0, np.float32(1): 5.0, np.float64(2): 0.5},
    "values of NumPy": {0: np.float32(1), 1: np.int64(5), 2: np.float64(0.5)},
    "a list": [1.0, 5.0, 0.5],
    "a tuple": (1, 5, 0.5),
    "an array": np.array([1.0, 5.0, 0.5]),
    "a tensor": torch.tensor([1.0, 5.0, 0.5]),
}


@pytest.mark.parametrize("weights", GIVEN.values(), ids=GIVEN)
def test_forms_of_weights(weights):
    expected, _ = loss_of(CLASSES, 3, "cross_entropy")
    assert loss_of(CLASSES, 3, "cross_entropy", class_weight=weights)[0] == expected


@pytest.mark.parametrize("weights", [{}, [], np.array([])], ids=str)
def test_no_weights_are_none(weights):
    expected, _ = loss_of(CLASSES, 3, "cross_entropy", class_weight=None)
    assert loss_of(CLASSES, 3, "cross_entropy", class_weight=weights)[0] == expected


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ("balanced", TypeError),
        (3.0, TypeError),
        ({"a": 1.0}, ValueError),
        ({-1: 1.0}, ValueError),
        ({0.5: 1.0}, ValueError),
        ({True: 1.0}, ValueError),
        ({0: -1.0}, ValueError),
        ({0: float("nan")}, ValueError),
        ({0: float("inf")}, ValueError),
    ],
    ids=str,
)
def test_other_weights_are_refused(weights, error):
    with pytest.raises(error, match="class_weight"):
        loss_of(CLASSES, 3, "cross_entropy", class_weight=weights)


@pytest.mark.parametrize(
    ("y", "outputs", "loss_fn", "classes"),
    [
        (CLASSES, 3, "cross_entropy", 3),
        (ONE_HOT, 3, "cross_entropy", 3),
        (BINARY, 1, "bce_with_logits", 2),
    ],
)
def test_a_weight_for_a_class_that_the_net_lacks_is_an_error(y, outputs, loss_fn, classes):
    weights = {0: 1.0, classes: 2.0}
    with pytest.raises(DataError, match=rf"has the class {classes}.*0 to {classes - 1}"):
        loss_of(y, outputs, loss_fn, class_weight=weights)
