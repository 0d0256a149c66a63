import numpy as np
import pytest
import torch
from torch import nn

from fitorch.losses import CosineLoss, get

N, D = 5, 3
G = torch.Generator().manual_seed(0)
FIRST = torch.randn(N, D, generator=G, dtype=torch.float64)
SECOND = torch.randn(N, D, generator=G, dtype=torch.float64)


def cosine(u, v):
    return np.dot(u, v) / np.sqrt(np.dot(u, u) * np.dot(v, v))


def test_the_loss_is_one_minus_the_cosine():
    expected = [1 - cosine(u, v) for u, v in zip(FIRST.numpy(), SECOND.numpy(), strict=True)]
    np.testing.assert_allclose(CosineLoss(reduction="none")(FIRST, SECOND), expected)
    assert CosineLoss()(FIRST, SECOND).item() == pytest.approx(np.mean(expected))
    assert CosineLoss(reduction="sum")(FIRST, SECOND).item() == pytest.approx(np.sum(expected))


def test_the_vectors_may_lie_along_any_dimension():
    stacked = torch.stack([FIRST, SECOND]), torch.stack([SECOND, SECOND])  # (2, N, D)
    losses = CosineLoss(dim=-1, reduction="none")(*stacked)
    np.testing.assert_allclose(losses[0], CosineLoss(reduction="none")(FIRST, SECOND))
    np.testing.assert_allclose(losses[1], np.zeros(N), atol=1e-12)


@pytest.mark.parametrize(("sign", "loss"), [(3.0, 0.0), (-0.1, 2.0)])
def test_only_the_direction_matters(sign, loss):
    assert CosineLoss()(FIRST, sign * FIRST).item() == pytest.approx(loss, abs=1e-12)


def test_a_vector_of_zeros_is_no_division_by_zero():
    x = torch.zeros(2, D, requires_grad=True)
    loss = CosineLoss()(x, torch.ones(2, D))
    assert loss == 1
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dim", [0, 1])
def test_gradients_are_right(reduction, dim):
    x, y = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    assert torch.autograd.gradcheck(CosineLoss(dim, reduction=reduction), (x, y))
    assert torch.autograd.gradgradcheck(CosineLoss(dim, reduction=reduction), (x, y))


def test_the_similarity_of_torch_is_refused_since_it_grows():
    with pytest.raises(TypeError, match=r"use fitorch.losses.CosineLoss\(\), which is 1 - similar"):
        get(nn.CosineSimilarity())


def test_it_reads_like_its_arguments():
    assert repr(CosineLoss()) == "CosineLoss()"
    assert repr(CosineLoss(-1)) == "CosineLoss(dim=-1)"
