import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import MisfitError, SCELoss

N, C = 4, 3
G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


LOGITS, BITS = normal(N, 2), (normal(N, 2) > 0).double()
SCORES, CLASSES = normal(N, C), torch.randint(0, C, (N,), generator=G)
PIXELS, MAP = normal(N, C, 2, 2), torch.randint(0, C, (N, 2, 2), generator=G)


def ce(y, p):
    """The binary cross entropy of the seeds."""
    p = torch.clamp(p, min=1e-4, max=1 - 1e-4)
    y = torch.clamp(y, min=1e-4, max=1 - 1e-4)
    return -y * torch.log(p) - (1 - y) * torch.log(1 - p)


class SeedsSCELoss(nn.Module):
    """As the seeds print it."""

    def __init__(self, num_classes=10, a=1, b=1):
        super().__init__()
        self.num_classes = num_classes
        self.a = a
        self.b = b
        self.cross_entropy = nn.CrossEntropyLoss()

    def forward(self, pred, labels):
        ce = self.cross_entropy(pred, labels)
        pred = F.softmax(pred, dim=1)
        pred = torch.clamp(pred, min=1e-4, max=1.0)
        label_one_hot = F.one_hot(labels, self.num_classes).float().to(pred.device)
        label_one_hot = torch.clamp(label_one_hot, min=1e-4, max=1.0)
        rce = -1 * torch.sum(pred * torch.log(label_one_hot), dim=1)
        return self.a * ce + self.b * rce.mean()


# The seeds' numbers


@pytest.mark.parametrize(("truth", "ratio"), [(1.0, 8.2502), (0.0, 4.5786)])
@pytest.mark.parametrize("from_logits", [True, False])
def test_the_reverse_counts_more_for_clean_labels_than_for_noisy_ones(truth, ratio, from_logits):
    p, y = torch.tensor([0.8]), torch.tensor([truth])
    y_pred = p.logit() if from_logits else p
    forward = SCELoss(b=0, from_logits=from_logits)(y_pred, y)
    reverse = SCELoss(a=0, from_logits=from_logits)(y_pred, y)
    assert (reverse / forward).item() == pytest.approx(ratio, abs=1e-4)  # as printed


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.1, 1.0), (6, 0.1), (0, 1), (1, 0)])
def test_the_loss_over_classes_is_the_seeds(a, b):
    for scale in (1, 20):
        expected = SeedsSCELoss(C, a, b)(scale * SCORES, CLASSES)
        found = SCELoss(num_classes=C, a=a, b=b)(scale * SCORES, CLASSES)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # one_hot().float()


# The formula


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.1, 1.0), (0, 1), (1, 0)])
def test_the_binary_loss_is_the_seeds_formula(a, b):
    p = LOGITS.sigmoid()
    expected = a * ce(BITS, p) + b * ce(p, BITS)
    for y_pred, from_logits in ((LOGITS, True), (p, False)):
        losses = SCELoss(a=a, b=b, from_logits=from_logits, reduction="none")(y_pred, BITS)
        torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("x", "y"), [(SCORES, CLASSES), (PIXELS, MAP)])
def test_probabilities_give_what_logits_give(x, y):
    of_logits = SCELoss(reduction="none")(x, y)
    of_probabilities = SCELoss(from_logits=False, reduction="none")(x.softmax(1), y)
    torch.testing.assert_close(of_probabilities, of_logits)
    assert of_logits.shape == y.shape


def test_pixels_are_samples_of_their_own():
    flat = PIXELS.movedim(1, -1).reshape(-1, C), MAP.reshape(-1)
    torch.testing.assert_close(SCELoss()(PIXELS, MAP), SCELoss()(*flat))


# Gradients


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("x", "y"), [(LOGITS, BITS), (LOGITS, BITS * 0.8), (SCORES, CLASSES)])
def test_gradients_are_right(from_logits, reduction, x, y):
    activation = torch.sigmoid if y.is_floating_point() else lambda t: t.softmax(1)
    x = (x if from_logits else activation(x)).clone().requires_grad_()
    loss = SCELoss(a=0.7, b=1.3, from_logits=from_logits, reduction=reduction)
    assert torch.autograd.gradcheck(lambda p: loss(p, y), x)
    assert torch.autograd.gradgradcheck(lambda p: loss(p, y), x)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("truth", [0, 1])
def test_extremes_have_finite_losses_and_gradients(from_logits, truth):
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    x = (x if from_logits else x.sigmoid()).requires_grad_()
    loss = SCELoss(from_logits=from_logits)(x, torch.full_like(x, truth))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()
    x = torch.tensor([[-1e4, 1e4], [1e4, -1e4]])
    x = (x if from_logits else x.softmax(1)).requires_grad_()
    loss = SCELoss(from_logits=from_logits)(x, torch.full((2,), truth))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


# What does not fit


def test_another_number_of_classes_is_refused():
    message = "SCELoss has num_classes=10, but the net's output has 3 classes; omit the arg"
    with pytest.raises(MisfitError, match=message):
        SCELoss(10).check(SCORES, CLASSES)
    SCELoss(C).check(SCORES, CLASSES)
    SCELoss(10).check(LOGITS, BITS)  # of no meaning there


def test_it_reads_like_its_arguments():
    assert repr(SCELoss()) == "SCELoss(a=1, b=1)"
    assert repr(SCELoss(3, 0.1, 2, from_logits=False)) == "SCELoss(a=0.1, b=2, from_logits=False)"
