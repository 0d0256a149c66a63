import numpy as np
import pytest
import torch

from fitorch.losses import DiceLoss, Objective

N, C = 5, 3
G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


LOGITS, MASK = normal(N, 1, 4, 3), (normal(N, 1, 4, 3) > 0).double()
PIXELS, MAP = normal(N, C, 4, 3), torch.randint(0, C, (N, 4, 3), generator=G)
SCORES, CLASSES = normal(N, C), torch.randint(0, C, (N,), generator=G)


def dice(p, y, smooth):
    """One minus the overlap of two masks, in NumPy."""
    p, y = np.ravel(p), np.ravel(y)
    return 1 - (2 * np.sum(p * y) + smooth) / (np.sum(p) + np.sum(y) + smooth)


def by_class(p, y, smooth):
    return np.mean([dice(p[c], y == c, smooth) for c in range(len(p))])


@pytest.mark.parametrize("smooth", [0.0, 1.0, 1e-5])
def test_the_loss_of_a_mask_is_one_minus_its_overlap(smooth):
    expected = [dice(p, y, smooth) for p, y in zip(LOGITS.sigmoid(), MASK, strict=True)]
    losses = DiceLoss(smooth, from_logits=True, reduction="none")(LOGITS, MASK)
    np.testing.assert_allclose(losses, expected)
    losses = DiceLoss(smooth, reduction="none")(LOGITS.sigmoid(), MASK)
    np.testing.assert_allclose(losses, expected)


@pytest.mark.parametrize("smooth", [0.1, 1.0])
@pytest.mark.parametrize(("x", "y"), [(PIXELS, MAP), (SCORES, CLASSES)])
def test_the_loss_of_classes_is_the_mean_of_theirs(smooth, x, y):
    p = x.softmax(1)
    expected = [by_class(p.numpy(), y.numpy(), smooth) for p, y in zip(p, y, strict=True)]
    losses = DiceLoss(smooth, from_logits=True, reduction="none")(x, y)
    np.testing.assert_allclose(losses, expected)
    np.testing.assert_allclose(DiceLoss(smooth, reduction="none")(p, y), expected)


def test_reductions_are_over_samples():
    losses = DiceLoss(from_logits=True, reduction="none")(PIXELS, MAP)
    assert losses.shape == (N,)
    mean, total = (DiceLoss(from_logits=True, reduction=r)(PIXELS, MAP) for r in ("mean", "sum"))
    torch.testing.assert_close(mean, losses.mean())
    torch.testing.assert_close(total, losses.sum())


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 2, 3, 2, 2)])
def test_masks_may_have_any_shape(shape):
    p, y = normal(*shape).sigmoid(), (normal(*shape) > 0).double()
    expected = [dice(*pair, 1.0) for pair in zip(p, y, strict=True)]
    np.testing.assert_allclose(DiceLoss(reduction="none")(p, y), expected)


def test_masks_that_agree_cost_nothing():
    for mask in (MASK, torch.zeros_like(MASK), torch.ones_like(MASK)):
        assert DiceLoss()(mask, mask).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, N])
@pytest.mark.parametrize(("x", "y"), [(LOGITS, MASK), (PIXELS, MAP)])
def test_the_mean_of_an_epoch_does_not_depend_on_its_batches(size, x, y):
    (term,) = Objective(DiceLoss(from_logits=True)).losses
    weight = torch.arange(N) + 1.0
    losses = DiceLoss(from_logits=True, reduction="none")(x, y)
    for weights, expected in ((None, losses.mean()), (weight, losses @ weight.double() / 15)):
        total, shares = 0.0, 0.0
        for i in torch.arange(N).split(size):
            value, share = term(x[i], y[i], None if weights is None else weights[i])
            total, shares = total + value.item() * float(share), shares + float(share)
        assert total / shares == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("x", "y"), [(LOGITS, MASK), (LOGITS, MASK * 0.7), (SCORES, CLASSES)])
def test_gradients_are_right(from_logits, reduction, x, y):
    activation = torch.sigmoid if y.is_floating_point() else lambda t: t.softmax(1)
    x = (x if from_logits else activation(x))[:2].clone().requires_grad_()
    loss = DiceLoss(0.5, from_logits=from_logits, reduction=reduction)
    assert torch.autograd.gradcheck(lambda p: loss(p, y[:2]), x)
    assert torch.autograd.gradgradcheck(lambda p: loss(p, y[:2]), x)


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_extreme_logits_have_finite_losses_and_gradients(extreme, truth):
    x = torch.full((2, 3), extreme).requires_grad_()
    loss = DiceLoss(from_logits=True)(x, torch.full((2, 3), truth))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


@pytest.mark.parametrize("smooth", [-1.0, float("nan")])
def test_a_negative_smoothing_is_refused(smooth):
    with pytest.raises(ValueError, match=f"smooth must be 0 or more, got {smooth!r}"):
        DiceLoss(smooth)


def test_it_reads_like_its_arguments():
    assert repr(DiceLoss()) == "DiceLoss(smooth=1)"
    assert repr(DiceLoss(0.1, from_logits=True)) == "DiceLoss(smooth=0.1, from_logits=True)"
