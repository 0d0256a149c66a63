"""Losses at work: torch's own values, whatever the batches, the weights and the way they reduce."""

import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import MisfitError, Objective, term

N, C, T = 71, 5, 9
G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


def whole(least, most, *shape):
    return torch.randint(least, most, shape, generator=G)


class Case(NamedTuple):
    make: Callable[..., Any]  # reduction="mean" -> loss
    y_pred: Any
    y_true: Any
    call: Callable[..., Any] = lambda loss, y_pred, y_true: loss(y_pred, y_true)
    axis: int = 0  # of the samples in y_pred


def reducing(kind, **arguments):
    return lambda reduction="mean": kind(reduction=reduction, **arguments)


def euclidean(first, second):
    return (first - second).norm(dim=-1)


VALUES, TARGETS = normal(N, C), normal(N, C)
LABELS, BITS, SIGNS = whole(0, C, N), (normal(N, C) > 0).double(), normal(N, C).sign()
WEIGHT = torch.tensor([0.1, 1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
PIXELS, MAP = normal(N, C, 2, 3), whole(0, C, N, 2, 3)
HOLES = torch.where(normal(N, 2, 3) < 0.4, -100, MAP)
SOFT = normal(N, C).softmax(1)
LISTS = torch.tensor([[0, 3, -1, 1, 1], [2, -1, 0, 0, 0], [-1, 0, 0, 0, 0]]).repeat(24, 1)[:N]
ADAPTIVE = nn.AdaptiveLogSoftmaxWithLoss(C, 20, [5, 10], div_value=1.5, dtype=torch.float64)
DISTANCE = partial(nn.TripletMarginWithDistanceLoss, distance_function=euclidean)
SPOKEN, LENGTHS = whole(1, C, N, 4), whole(1, 5, N)
HEARD = whole(7, T + 1, N)
TRIPLE = (normal(N, C), normal(N, C), normal(N, C))
CASES = {
    "BCELoss": Case(reducing(nn.BCELoss), VALUES.sigmoid(), BITS),
    "BCELoss, class weights": Case(reducing(nn.BCELoss, weight=WEIGHT), VALUES.sigmoid(), BITS),
    "BCEWithLogitsLoss": Case(reducing(nn.BCEWithLogitsLoss), VALUES, BITS),
    "BCEWithLogitsLoss, positive": Case(
        reducing(nn.BCEWithLogitsLoss, pos_weight=WEIGHT), VALUES, BITS
    ),
    "CrossEntropyLoss": Case(reducing(nn.CrossEntropyLoss), VALUES, LABELS),
    "CrossEntropyLoss, bytes": Case(
        reducing(nn.CrossEntropyLoss, weight=WEIGHT), VALUES, LABELS.to(torch.uint8)
    ),
    "CrossEntropyLoss, weights, ignored, smooth": Case(
        reducing(nn.CrossEntropyLoss, weight=WEIGHT, ignore_index=1, label_smoothing=0.1),
        VALUES,
        LABELS,
    ),
    "CrossEntropyLoss, probabilities": Case(
        reducing(nn.CrossEntropyLoss, weight=WEIGHT, label_smoothing=0.1), VALUES, SOFT
    ),
    "CrossEntropyLoss, pixels": Case(reducing(nn.CrossEntropyLoss), PIXELS, MAP),
    "CrossEntropyLoss, ignored pixels": Case(
        reducing(nn.CrossEntropyLoss, weight=WEIGHT), PIXELS, HOLES
    ),
    "CTCLoss": Case(
        reducing(nn.CTCLoss),
        normal(T, N, C).log_softmax(2),
        (SPOKEN, LENGTHS),
        lambda loss, p, t: loss(p, t[0], torch.full((p.shape[1],), T), t[1]),
        axis=1,
    ),
    "CTCLoss, lengths": Case(
        reducing(nn.CTCLoss, blank=0, zero_infinity=True),
        normal(T, N, C).log_softmax(2),
        (SPOKEN, HEARD, LENGTHS),
        lambda loss, p, t: loss(p, *t),
        axis=1,
    ),
    "CosineEmbeddingLoss": Case(
        reducing(nn.CosineEmbeddingLoss, margin=0.2),
        (normal(N, C), normal(N, C)),
        SIGNS[:, 0],
        lambda loss, p, t: loss(*p, t),
    ),
    "GaussianNLLLoss": Case(
        reducing(nn.GaussianNLLLoss, full=True),
        (normal(N, C), normal(N, C).exp()),
        TARGETS,
        lambda loss, p, t: loss(p[0], t, p[1]),
    ),
    "GaussianNLLLoss, known variance": Case(
        reducing(nn.GaussianNLLLoss),
        normal(N, 1),
        (normal(N, 1), normal(N, 1).exp()),
        lambda loss, p, t: loss(p, *t),
    ),
    "HingeEmbeddingLoss": Case(reducing(nn.HingeEmbeddingLoss, margin=0.5), VALUES, SIGNS),
    "HuberLoss": Case(reducing(nn.HuberLoss, delta=0.5), VALUES, TARGETS),
    "KLDivLoss": Case(
        lambda reduction="mean": nn.KLDivLoss(
            reduction="batchmean" if reduction == "mean" else reduction
        ),
        VALUES.log_softmax(1),
        SOFT,
    ),
    "L1Loss": Case(reducing(nn.L1Loss), VALUES, TARGETS),
    "MSELoss": Case(reducing(nn.MSELoss), VALUES, TARGETS),
    "MSELoss, flat": Case(reducing(nn.MSELoss), VALUES[:, 0], TARGETS[:, 0]),
    "MarginRankingLoss": Case(
        reducing(nn.MarginRankingLoss, margin=0.1),
        (normal(N), normal(N)),
        SIGNS[:, 0],
        lambda loss, p, t: loss(*p, t),
    ),
    "MultiLabelMarginLoss": Case(reducing(nn.MultiLabelMarginLoss), VALUES, LISTS),
    "MultiLabelSoftMarginLoss": Case(
        reducing(nn.MultiLabelSoftMarginLoss, weight=WEIGHT), VALUES, BITS
    ),
    "MultiMarginLoss": Case(reducing(nn.MultiMarginLoss, weight=WEIGHT), VALUES, LABELS),
    "NLLLoss": Case(reducing(nn.NLLLoss), VALUES.log_softmax(1), LABELS),
    "NLLLoss, weights, ignored": Case(
        reducing(nn.NLLLoss, weight=WEIGHT, ignore_index=2), PIXELS.log_softmax(1), MAP
    ),
    "PoissonNLLLoss": Case(reducing(nn.PoissonNLLLoss, full=True), VALUES, whole(0, 9, N, C)),
    "SmoothL1Loss": Case(reducing(nn.SmoothL1Loss, beta=0.5), VALUES, TARGETS),
    "SoftMarginLoss": Case(reducing(nn.SoftMarginLoss), VALUES, SIGNS),
    "TripletMarginLoss": Case(
        reducing(nn.TripletMarginLoss, swap=True), TRIPLE, None, lambda loss, p, t: loss(*p)
    ),
    "TripletMarginWithDistanceLoss": Case(
        reducing(DISTANCE, margin=0.5), TRIPLE, TARGETS, lambda loss, p, t: loss(*p)
    ),
}
UNREDUCED = {
    "AdaptiveLogSoftmaxWithLoss": Case(
        lambda reduction="mean": ADAPTIVE,
        VALUES,
        whole(0, 20, N),
        lambda loss, p, t: loss(p, t).loss,
    )
}
if hasattr(nn, "LinearCrossEntropyLoss"):  # since torch 2.13

    def linear(**arguments):
        loss = nn.LinearCrossEntropyLoss(C, C, dtype=torch.float64, **arguments)

        def make(reduction="mean"):
            made = copy.deepcopy(loss)
            made.reduction = reduction
            return made

        return make

    CASES["LinearCrossEntropyLoss"] = Case(linear(weight=WEIGHT), VALUES, LABELS)
    CASES["LinearCrossEntropyLoss, ignored"] = Case(
        linear(bias=True), VALUES, torch.where(LABELS == 1, -100, LABELS)
    )
    CASES["LinearCrossEntropyLoss, probabilities"] = Case(linear(), VALUES, SOFT)
ALL = {**CASES, **UNREDUCED}
EVERY = pytest.mark.parametrize("case", ALL.values(), ids=ALL)
REDUCING = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SIZES = pytest.mark.parametrize("size", [1, 7, 64])


def over(tree, index, axis=0):
    """Samples of a tree of tensors, chosen by index."""
    if isinstance(tree, tuple):
        return tuple(over(leaf, index) for leaf in tree)
    return None if tree is None else tree.index_select(axis, index)


def batches(case, size, weight=None):
    """What the loss of each batch gives: `(value, share)`."""
    (loss,) = Objective(case.loss).losses
    for index in torch.arange(N).split(size):
        y_pred, y_true = over(case.y_pred, index, case.axis), over(case.y_true, index)
        yield loss(y_pred, y_true, None if weight is None else weight[index])


class Reduced(NamedTuple):
    loss: Any
    y_pred: Any
    y_true: Any
    axis: int


def reduced(case, reduction):
    return Reduced(case.make(reduction), case.y_pred, case.y_true, case.axis)


def epoch(parts):
    parts = [(value.item(), float(share)) for value, share in parts]
    parts = [(value, share) for value, share in parts if share]  # of nothing, a mean is NaN
    return sum(value * share for value, share in parts) / sum(share for _, share in parts)


def torchs(case, reduction="mean", repeats=None):
    """Torch's own loss over all samples, of which some may be repeated."""
    index = torch.arange(N)
    index = index if repeats is None else index.repeat_interleave(repeats)
    y_pred, y_true = over(case.y_pred, index, case.axis), over(case.y_true, index)
    return case.call(case.make(reduction), y_pred, y_true).item()


def close(value):
    return pytest.approx(value, rel=1e-10)


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


# Functions


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
UNEVEN = torch.rand(N, dtype=torch.float64)


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


# Several outputs


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
        ({"data": VALUES}, TARGETS, "the targets have one Tensor"),
    ],
)
def test_a_missing_output_is_named(y_pred, y_true, message):
    with pytest.raises(MisfitError, match=f"there is a loss for output 'data', but {message}"):
        Objective({"data": "mse"})(y_pred, y_true, None)
