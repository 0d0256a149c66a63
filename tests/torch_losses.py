"""Torch's losses with data for each, and their values by torch itself and by an objective."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from fitorch.losses import Objective

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
UNEVEN = torch.rand(N, dtype=torch.float64)  # weights of the samples
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
