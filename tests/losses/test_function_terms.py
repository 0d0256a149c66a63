"""Functions as losses: torch's own, and those of users."""

from functools import partial
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import Objective, term
from torch_losses import (
    CASES,
    SIZES,
    TARGETS,
    UNEVEN,
    VALUES,
    WEIGHT,
    C,
    N,
    Reduced,
    batches,
    epoch,
    euclidean,
    reduced,
)

FUNCTIONS = {
    F.binary_cross_entropy: ("BCELoss", {}),
    F.binary_cross_entropy_with_logits: ("BCEWithLogitsLoss, positive", {"pos_weight": WEIGHT}),
    F.cosine_embedding_loss: ("CosineEmbeddingLoss", {"margin": 0.2}),
    F.cross_entropy: (
        "CrossEntropyLoss, weights, ignored, smooth",
        {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.1},
    ),
    F.ctc_loss: ("CTCLoss", {}),
    F.gaussian_nll_loss: ("GaussianNLLLoss", {"full": True}),
    F.hinge_embedding_loss: ("HingeEmbeddingLoss", {"margin": 0.5}),
    F.huber_loss: ("HuberLoss", {"delta": 0.5}),
    F.kl_div: ("KLDivLoss", {"reduction": "batchmean"}),
    F.l1_loss: ("L1Loss", {}),
    F.margin_ranking_loss: ("MarginRankingLoss", {"margin": 0.1}),
    F.mse_loss: ("MSELoss", {}),
    F.multi_margin_loss: ("MultiMarginLoss", {"weight": WEIGHT}),
    F.multilabel_margin_loss: ("MultiLabelMarginLoss", {}),
    F.multilabel_soft_margin_loss: ("MultiLabelSoftMarginLoss", {"weight": WEIGHT}),
    F.nll_loss: ("NLLLoss", {}),
    F.poisson_nll_loss: ("PoissonNLLLoss", {"full": True}),
    F.smooth_l1_loss: ("SmoothL1Loss", {"beta": 0.5}),
    F.soft_margin_loss: ("SoftMarginLoss", {}),
    F.triplet_margin_loss: ("TripletMarginLoss", {"swap": True}),
    F.triplet_margin_with_distance_loss: (
        "TripletMarginWithDistanceLoss",
        {"distance_function": euclidean, "margin": 0.5},
    ),
}


def test_every_function_of_torch_is_here():
    of_torch = {name for name in dir(F) if name.endswith(("loss", "entropy", "logits", "kl_div"))}
    # that of LinearCrossEntropyLoss takes the layer's weights too: it is no (y_pred, y_true)
    assert of_torch - {"linear_cross_entropy"} == {function.__name__ for function in FUNCTIONS}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("weight", [None, torch.rand(N, dtype=torch.float64)])
def test_a_function_of_torch_does_what_its_module_does(function, weight):
    name, keywords = FUNCTIONS[function]
    case = CASES[name]
    loss_fn = partial(function, **keywords) if keywords else function
    expected = list(batches(reduced(case, "mean"), 7, weight))
    for loss in (loss_fn, 1 * term(loss_fn)):
        found = Reduced(loss, case.y_pred, case.y_true, case.axis)
        for part, same in zip(batches(found, 7, weight), expected, strict=True):
            torch.testing.assert_close(part, same, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif("weight" not in signature(F.mse_loss).parameters, reason="needs torch 2.13")
def test_a_keyword_that_only_the_function_has_is_heeded():
    weight = torch.rand(N, C, dtype=torch.float64)
    loss_fn = partial(F.mse_loss, weight=weight)
    ((value, _),) = Objective(loss_fn)(VALUES, TARGETS, None)
    assert torch.equal(value, loss_fn(VALUES, TARGETS))


def relative(y_pred, y_true, reduction="mean"):
    losses = ((y_pred - y_true) / (1 + y_true.abs())).square()
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


RATIOS = relative(VALUES, TARGETS, reduction="none").mean(1)


@SIZES
def test_a_function_with_a_reduction_is_weighted(size):
    loss = Reduced(relative, VALUES, TARGETS, 0)
    assert epoch(batches(loss, size)) == pytest.approx(RATIOS.mean().item())
    expected = (UNEVEN * RATIOS).sum() / UNEVEN.sum()
    assert epoch(batches(loss, size, UNEVEN)) == pytest.approx(expected.item())


def unreduced(y_pred, y_true, reduction="none"):
    return relative(y_pred, y_true, reduction)


@SIZES
@pytest.mark.parametrize(
    "loss_fn",
    [
        partial(relative, reduction="none"),
        unreduced,
        term(unreduced),
        term(lambda p, t: relative(p, t, "none"), per_sample=True),
        term(lambda p, t: relative(p, t, "none").mean(1), per_sample=True),
    ],
)
def test_a_function_that_gives_a_loss_per_sample_is_averaged(loss_fn, size):
    loss = Reduced(loss_fn, VALUES, TARGETS, 0)
    assert epoch(batches(loss, size)) == pytest.approx(RATIOS.mean().item())
    expected = (UNEVEN * RATIOS).sum() / UNEVEN.sum()
    assert epoch(batches(loss, size, UNEVEN)) == pytest.approx(expected.item())


@SIZES
def test_a_function_that_sums_is_summed(size):
    loss = Reduced(partial(relative, reduction="sum"), VALUES, TARGETS, 0)
    assert Objective(loss.loss).summed == [True]
    parts = list(batches(loss, size, torch.arange(N) % 3))
    assert sum(value.item() for value, _ in parts) == pytest.approx(
        (RATIOS * (torch.arange(N) % 3)).sum().item() * C
    )


@pytest.mark.parametrize(
    "loss_fn", [lambda p, t: (p - t).square().mean(), torch.dist, None, nn.Linear(C, 1)]
)
def test_a_loss_that_offers_none_per_sample_cant_be_weighted(loss_fn):
    with pytest.raises(TypeError, match=r"need a loss per sample.*per_sample=True"):
        Objective(loss_fn)(VALUES, TARGETS, torch.ones(N))


def test_a_loss_that_is_not_one_per_sample_cant_be_weighted():
    class Own(nn.Module):
        reduction = "mean"

        def forward(self, y_pred, y_true):
            return (y_pred - y_true).square().mean()

    message = r"Own\(\) returned losses of shape \(\) for 71 sample weights; expected one loss per"
    with pytest.raises(ValueError, match=message):
        Objective(Own())(VALUES, TARGETS, torch.ones(N))
    with pytest.raises(ValueError, match=r"squared returned losses of shape \(\); expected"):
        Objective(term(squared, per_sample=True))(VALUES, TARGETS, None)
    with pytest.raises(ValueError, match=r"MSELoss\(\) returned losses of shape \(71, 5\) for 3"):
        Objective(nn.MSELoss())(VALUES, TARGETS, torch.ones(3))


def test_a_loss_per_sample_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"custom returned a list|<lambda> returned a list"):
        Objective(term(lambda p, t: [1.0], per_sample=True))(VALUES, TARGETS, None)


def squared(y_pred, y_true):
    return (y_pred - y_true).square().mean()


@pytest.mark.parametrize(
    ("y_true", "share"),
    [
        (torch.zeros(7, 2), 7),
        ((torch.zeros(4), torch.zeros(4, 3)), 4),
        ({"age": torch.zeros(3, 1)}, 3),
        ([None, torch.zeros(6)], 6),
        (None, 5),
    ],
)
def test_the_share_is_the_number_of_samples(y_true, share):
    (loss,) = Objective(squared).losses
    assert loss.normalizer({"out": torch.zeros(5, 2)}, y_true) == share


@pytest.mark.parametrize("y_true", ["cat", ["cat", "dog"], [1.0, 2.0], {}, 3, torch.tensor(1.0)])
def test_targets_that_are_no_tensors_of_samples_are_refused(y_true):
    with pytest.raises(TypeError, match="cannot determine the number of samples"):
        Objective(squared).losses[0].normalizer(None, y_true)
