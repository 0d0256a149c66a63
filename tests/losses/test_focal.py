import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import seeds
from fitorch.losses import FocalLoss, MisfitError, Objective

N, C = 7, 4
GAMMAS = [0, 0.5, 1, 2, 5]
ALPHAS = [None, 0.75]
G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


LOGITS, BITS = normal(N, 3), (normal(N, 3) > 0).double()
SCORES, CLASSES = normal(N, C), torch.randint(0, C, (N,), generator=G)
PIXELS, MAP = normal(N, C, 3, 2), torch.randint(0, C, (N, 3, 2), generator=G)
SOFT = torch.rand(N, 3, generator=G, dtype=torch.float64)
BY_CLASS = [0.1, 0.5, 2.0, 1.0]


def sigmoid_focal_loss(x, y, gamma, alpha):
    """Lin et al., 2017, equation 5, element by element as written there."""
    losses = torch.empty_like(x)
    for index in torch.cartesian_prod(*map(torch.arange, x.shape)).reshape(-1, x.dim()).tolist():
        p, truth = 1 / (1 + math.exp(-x[tuple(index)])), y[tuple(index)]
        p_t, alpha_t = (p, alpha) if truth == 1 else (1 - p, None if alpha is None else 1 - alpha)
        scale = 1.0 if alpha_t is None else alpha_t
        losses[tuple(index)] = -scale * (1 - p_t) ** gamma * math.log(p_t)
    return losses


def softmax_focal_loss(x, y, gamma, alpha):
    """The same over classes, by a loop over samples (and pixels)."""
    x, y = x.movedim(1, -1), y
    losses = torch.empty(y.shape, dtype=x.dtype)
    for index in torch.cartesian_prod(*map(torch.arange, y.shape)).reshape(-1, y.dim()).tolist():
        row, truth = x[tuple(index)].exp(), int(y[tuple(index)])
        p_t = (row[truth] / row.sum()).item()
        scale = 1.0 if alpha is None else alpha[truth] if isinstance(alpha, list) else alpha
        losses[tuple(index)] = -scale * (1 - p_t) ** gamma * math.log(p_t)
    return losses


# The seeds' numbers


def test_hard_samples_keep_their_weight_and_easy_ones_lose_it():
    y_true = torch.tensor([[1.0], [0.0]])
    hard, easy = torch.tensor([[0.5], [0.5]]), torch.tensor([[0.9], [0.1]])
    focal, bce = FocalLoss(), nn.BCELoss()
    assert round(focal(hard, y_true).item(), 4) == 0.0866
    assert round(focal(easy, y_true).item(), 4) == 0.0005
    assert round(bce(hard, y_true).item(), 4) == 0.6931
    assert round(bce(easy, y_true).item(), 4) == 0.1054
    assert (focal(hard, y_true) / bce(hard, y_true)).item() == pytest.approx(0.125, abs=1e-6)
    # the seeds divide what they printed, 0.0005 by 0.1054; the ratio itself is 0.1 ** 2 / 2
    assert round(0.0005 / 0.1054, 4) == 0.0047
    assert (focal(easy, y_true) / bce(easy, y_true)).item() == pytest.approx(0.005, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_binary_loss_is_the_seeds(gamma):
    p = LOGITS.sigmoid()
    expected = seeds.FocalLoss(gamma=gamma, alpha=0.6)(p, BITS)
    torch.testing.assert_close(FocalLoss(gamma=gamma, alpha=0.6)(p, BITS), expected)
    logits = FocalLoss(gamma=gamma, alpha=0.6, from_logits=True)(LOGITS, BITS)
    torch.testing.assert_close(logits, expected)


# The formula


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 1.0])
def test_the_binary_loss_is_the_papers(gamma, alpha):
    expected = sigmoid_focal_loss(LOGITS, BITS, gamma, alpha)
    of_logits = FocalLoss(gamma, alpha, from_logits=True, reduction="none")(LOGITS, BITS)
    torch.testing.assert_close(of_logits, expected)
    of_probabilities = FocalLoss(gamma, alpha, reduction="none")(LOGITS.sigmoid(), BITS)
    torch.testing.assert_close(of_probabilities, expected)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.25, BY_CLASS])
@pytest.mark.parametrize(("x", "y"), [(SCORES, CLASSES), (PIXELS, MAP)])
def test_the_loss_over_classes_is_the_papers(gamma, alpha, x, y):
    expected = softmax_focal_loss(x, y, gamma, alpha)
    of_logits = FocalLoss(gamma, alpha, from_logits=True, reduction="none")(x, y)
    torch.testing.assert_close(of_logits, expected)
    of_probabilities = FocalLoss(gamma, alpha, reduction="none")(x.softmax(1), y)
    torch.testing.assert_close(of_probabilities, expected)


def test_two_classes_are_binary():
    logits = torch.stack([torch.zeros(N, 3).double(), LOGITS], 1)
    binary = FocalLoss(2.0, 0.3, from_logits=True)(LOGITS, BITS)
    classes = FocalLoss(2.0, [0.7, 0.3], from_logits=True)(logits, BITS.long())
    torch.testing.assert_close(classes, binary, rtol=1e-6, atol=0)  # alpha is kept in float32


def test_without_gamma_and_alpha_it_is_a_cross_entropy():
    plain = {"gamma": 0, "alpha": None}
    logits = FocalLoss(**plain, from_logits=True)
    bce = F.binary_cross_entropy_with_logits(LOGITS, BITS)
    torch.testing.assert_close(logits(LOGITS, BITS), bce, rtol=1e-12, atol=0)
    torch.testing.assert_close(FocalLoss(**plain)(LOGITS.sigmoid(), BITS), bce)
    soft = F.binary_cross_entropy_with_logits(LOGITS, SOFT)
    torch.testing.assert_close(logits(LOGITS, SOFT), soft, rtol=1e-12, atol=0)
    for x, y in ((SCORES, CLASSES), (PIXELS, MAP)):
        torch.testing.assert_close(logits(x, y), F.cross_entropy(x, y), rtol=1e-12, atol=0)
        torch.testing.assert_close(FocalLoss(**plain)(x.softmax(1), y), F.cross_entropy(x, y))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_soft_targets_follow_the_seeds_formula(gamma, alpha):
    p = LOGITS.sigmoid()
    missed = SOFT * (1 - p) + (1 - SOFT) * p
    factor = 1 if alpha is None else SOFT * alpha + (1 - SOFT) * (1 - alpha)
    cross_entropy = -SOFT * p.log() - (1 - SOFT) * (1 - p).log()
    expected = (factor * missed**gamma * cross_entropy).mean()
    torch.testing.assert_close(FocalLoss(gamma, alpha, from_logits=True)(LOGITS, SOFT), expected)
    torch.testing.assert_close(FocalLoss(gamma, alpha)(p, SOFT), expected)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (2, 1, 3, 4)])
def test_binary_targets_may_have_any_shape(shape):
    x, y = normal(*shape), (normal(*shape) > 0).double()
    losses = FocalLoss(from_logits=True, reduction="none")(x, y)
    torch.testing.assert_close(losses, sigmoid_focal_loss(x, y, 2.0, 0.75))


# Gradients


MODES = pytest.mark.parametrize(
    ("x", "y", "alphas"),
    [(LOGITS, BITS, ALPHAS), (LOGITS, SOFT, ALPHAS), (SCORES, CLASSES, [None, 0.75, BY_CLASS])],
    ids=["binary", "soft", "classes"],
)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@MODES
def test_gradients_are_right(gamma, from_logits, reduction, x, y, alphas):
    activation = torch.sigmoid if y.is_floating_point() else lambda t: t.softmax(1)
    x, y = (x if from_logits else activation(x))[:2].clone().requires_grad_(), y[:2]
    for alpha in alphas:
        loss = FocalLoss(gamma, alpha, from_logits=from_logits, reduction=reduction)
        assert torch.autograd.gradcheck(lambda p, loss=loss: loss(p, y), x)
        if reduction == "sum" and alpha != 0.75:
            assert torch.autograd.gradgradcheck(lambda p, loss=loss: loss(p, y), x)


EXTREMES = torch.tensor([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("truth", [0.0, 1.0, 0.3])
def test_extreme_binary_logits_have_finite_losses_and_gradients(gamma, alpha, truth):
    x = EXTREMES.clone().requires_grad_()
    losses = FocalLoss(gamma, alpha, from_logits=True, reduction="none")(
        x, torch.full_like(x, truth)
    )
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
    if truth == 1 and alpha is None:  # -log(p) is -x far below 0, its slope -1
        torch.testing.assert_close(losses[:2], -EXTREMES[:2])
        torch.testing.assert_close(gradient[:2], torch.full((2,), -1.0))
        assert losses[-1] == gradient[-1] == 0


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.75, BY_CLASS])
@pytest.mark.parametrize("truth", [0, 1])
def test_extreme_logits_of_classes_have_finite_losses_and_gradients(gamma, alpha, truth):
    x = torch.zeros(len(EXTREMES), C)
    x[:, 0] = EXTREMES
    x.requires_grad_()
    y = torch.full((len(x),), truth)
    losses = FocalLoss(gamma, alpha, from_logits=True, reduction="none")(x, y)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
    if truth == 0 and alpha is None:
        torch.testing.assert_close(losses[:2], math.log(3) - EXTREMES[:2])
        torch.testing.assert_close(gradient[:2, 0], torch.full((2,), -1.0))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_probabilities_of_zero_and_one_have_finite_losses_and_gradients(gamma, alpha):
    p = torch.tensor([0.0, 0.0, 1.0, 1.0]).requires_grad_()
    loss = FocalLoss(gamma, alpha)(p, torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, p)[0].isfinite().all()
    p = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).requires_grad_()
    loss = FocalLoss(gamma, alpha)(p, torch.tensor([0, 1]))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, p)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_finite(dtype):
    x = torch.tensor([-100.0, -5.0, 0.0, 5.0, 100.0], dtype=dtype).requires_grad_()
    loss = FocalLoss(from_logits=True)(x, torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=dtype))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


# Batches and weights


@pytest.mark.parametrize("size", [1, 3, N])
@pytest.mark.parametrize(("x", "y"), [(LOGITS, BITS), (SCORES, CLASSES), (PIXELS, MAP)])
def test_the_mean_of_an_epoch_does_not_depend_on_its_batches(size, x, y):
    loss = FocalLoss(from_logits=True)
    (term,) = Objective(loss).losses
    weight = torch.arange(N) % 3
    for weights, repeats in ((None, torch.ones(N).long()), (weight.double(), weight)):
        total, shares = 0.0, 0.0
        for i in torch.arange(N).split(size):
            value, share = term(x[i], y[i], None if weights is None else weights[i])
            total, shares = total + value.item() * float(share), shares + float(share)
        expected = loss(x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0))
        assert total / shares == pytest.approx(expected.item(), rel=1e-12)


def test_weights_of_classes_move_and_are_saved_with_it():
    loss = FocalLoss(alpha=BY_CLASS)
    assert loss.to(torch.device("meta")).class_alpha.is_meta
    other = FocalLoss(alpha=[1.0] * C)
    other.load_state_dict(FocalLoss(alpha=BY_CLASS).state_dict())
    assert other.class_alpha.tolist() == pytest.approx(BY_CLASS)
    assert FocalLoss().state_dict() == {}


# What does not fit


@pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf")])
def test_a_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match=f"gamma must be 0 or more, got {gamma!r}"):
        FocalLoss(gamma)


@pytest.mark.parametrize(
    "alpha", [-0.1, 1.1, float("nan"), [0.5, -1.0], [0.5, float("inf")], torch.tensor(2.0)]
)
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], a weight for each cla"):
        FocalLoss(alpha=alpha)


def test_weights_of_classes_must_be_as_many():
    loss = FocalLoss(alpha=[0.5, 0.5, 1.0], from_logits=True)
    message = "FocalLoss has 3 weights in alpha, but the net's output has 4 classes; pass one w"
    with pytest.raises(MisfitError, match=message):
        loss.check(SCORES, CLASSES)
    message = "FocalLoss has 3 weights in alpha, but targets that are 0 or 1 for each output; pass"
    for call in (loss.check, loss):
        with pytest.raises(MisfitError, match=message):
            call(LOGITS, BITS)


@pytest.mark.parametrize(
    ("alpha", "text"),
    [(0.75, "0.75"), (None, "None"), ([0.2, 0.8], "[0.2, 0.8]"), (torch.ones(2), "[1, 1]")],
)
def test_it_reads_like_its_arguments(alpha, text):
    assert repr(FocalLoss(alpha=alpha)) == f"FocalLoss(gamma=2, alpha={text})"
    assert repr(FocalLoss(1.5, alpha, from_logits=True)) == (
        f"FocalLoss(gamma=1.5, alpha={text}, from_logits=True)"
    )
