"""Losses of torch.nn that take something else than `(y_pred, y_true)`."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import MisfitError, Objective

N, C, T = 6, 5, 9
SPOKEN = torch.randn(T, N, C).log_softmax(2)
LABELS, LENGTHS = torch.randint(1, C, (N, 4)), torch.tensor([4, 1, 2, 3, 0, 4])
HEARD = torch.tensor([9, 7, 8, 9, 7, 9])
FULL = torch.full((N,), T)
ROW = torch.cat([labels[:length] for labels, length in zip(LABELS, LENGTHS, strict=True)])


def parts(loss_fn, y_pred, y_true, weight=None):
    ((value, share),) = Objective(loss_fn)(y_pred, y_true, weight)
    return value, share


# CTCLoss


@pytest.mark.parametrize("labels", [LABELS, ROW])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ctc_takes_labels_that_are_padded_or_in_one_row(labels, reduction):
    loss_fn = nn.CTCLoss(reduction=reduction)
    expected = loss_fn(SPOKEN, labels, FULL, LENGTHS)
    for weight in (None, torch.ones(N)):
        value, share = parts(loss_fn, SPOKEN, (labels, LENGTHS), weight)
        torch.testing.assert_close(value, expected)
        assert share == N


@pytest.mark.parametrize(
    ("y_pred", "y_true"),
    [(SPOKEN, (LABELS, HEARD, LENGTHS)), ((SPOKEN, HEARD), [LABELS, LENGTHS])],
)
def test_ctc_takes_input_lengths_from_the_targets_or_the_net(y_pred, y_true):
    expected = nn.CTCLoss()(SPOKEN, LABELS, HEARD, LENGTHS)
    torch.testing.assert_close(parts(nn.CTCLoss(), y_pred, y_true), (expected, N))


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
def test_ctc_takes_lengths_of_any_kind(kind):
    lengths = kind(LENGTHS.tolist())
    expected = nn.CTCLoss()(SPOKEN, LABELS, FULL, LENGTHS)
    for weight in (None, torch.ones(N)):
        value, share = parts(nn.CTCLoss(), SPOKEN, (LABELS, lengths), weight)
        torch.testing.assert_close(value, expected)
        assert share == N


@pytest.mark.parametrize("size", [1, 4])
def test_ctc_over_batches_is_ctc_over_everything(size):
    total = 0.0
    for index in torch.arange(N).split(size):
        row = torch.cat([LABELS[i, : LENGTHS[i]] for i in index])
        value, share = parts(nn.CTCLoss(), SPOKEN[:, index], (row, LENGTHS[index]))
        total += value.item() * share
    expected = nn.CTCLoss()(SPOKEN, LABELS, FULL, LENGTHS).item()
    assert total / N == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("y_true", [LABELS, (LABELS,), (LABELS, HEARD, LENGTHS, LENGTHS)])
def test_ctc_needs_lengths(y_true):
    with pytest.raises(MisfitError, match=r"CTCLoss needs targets \(labels, label_lengths\) or"):
        parts(nn.CTCLoss(), SPOKEN, y_true)


# GaussianNLLLoss


MEAN, VARIANCE, TRUTH = torch.randn(N, 2), torch.rand(N, 2) + 0.1, torch.randn(N, 2)


@pytest.mark.parametrize(
    ("y_pred", "y_true"),
    [((MEAN, VARIANCE), TRUTH), ([MEAN, VARIANCE], TRUTH), (MEAN, (TRUTH, VARIANCE))],
)
@pytest.mark.parametrize("full", [False, True])
def test_the_variance_is_the_nets_or_the_targets(y_pred, y_true, full):
    # -log of the normal density, to a constant
    expected = 0.5 * (VARIANCE.log() + (MEAN - TRUTH).square() / VARIANCE).mean()
    if full:
        expected = -torch.distributions.Normal(MEAN, VARIANCE.sqrt()).log_prob(TRUTH).mean()
    value, share = parts(nn.GaussianNLLLoss(full=full), y_pred, y_true)
    torch.testing.assert_close(value, expected)
    assert share == N


def test_one_variance_a_sample_goes_with_several_values():
    expected = nn.GaussianNLLLoss()(MEAN, TRUTH, VARIANCE[:, :1])
    value, _ = parts(nn.GaussianNLLLoss(), (MEAN, VARIANCE[:, :1]), TRUTH, torch.ones(N))
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("y_pred", "y_true", "message"),
    [
        (MEAN, TRUTH, r"compares 2 outputs, but the net returned one output; return \(mean, var"),
        ((MEAN,) * 3, TRUTH, r"compares 2 outputs, but the net returned 3 outputs; return \(mean"),
        (
            (MEAN, VARIANCE),
            (TRUTH, VARIANCE),
            r"needs a variance from the net, \(mean, variance\), or from the targets, \(y, varian",
        ),
        (MEAN, (TRUTH,), "but the net returned a Tensor, and the targets have length 1"),
    ],
)
def test_a_variance_that_is_missing_or_there_twice_is_refused(y_pred, y_true, message):
    with pytest.raises(MisfitError, match=f"GaussianNLLLoss .*{message}"):
        parts(nn.GaussianNLLLoss(), y_pred, y_true)


# Pairs and triples


FIRST, SECOND, THIRD = torch.randn(3, N, C)
SIGNS = torch.randn(N).sign()


@pytest.mark.parametrize("kind", [tuple, list])
def test_pairs_are_compared_as_the_targets_tell(kind):
    value, share = parts(nn.CosineEmbeddingLoss(margin=0.1), kind([FIRST, SECOND]), SIGNS)
    cosine = F.cosine_similarity(FIRST, SECOND)
    expected = torch.where(SIGNS == 1, 1 - cosine, (cosine - 0.1).clamp_min(0)).mean()
    torch.testing.assert_close(value, expected)
    assert share == N
    value, _ = parts(nn.MarginRankingLoss(), kind([FIRST[:, 0], SECOND[:, 0]]), SIGNS)
    torch.testing.assert_close(value, (-SIGNS * (FIRST - SECOND)[:, 0]).clamp_min(0).mean())


@pytest.mark.parametrize("y_true", [None, torch.zeros(N), torch.arange(N)])
@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.TripletMarginLoss(margin=0.5, eps=0.0),
        nn.TripletMarginWithDistanceLoss(
            distance_function=lambda a, b: (a - b).norm(dim=1), margin=0.5
        ),
        partial(F.triplet_margin_loss, margin=0.5, eps=0.0),
    ],
)
def test_triples_need_no_targets(loss_fn, y_true):
    value, share = parts(loss_fn, (FIRST, SECOND, THIRD), y_true)
    near, far = (FIRST - SECOND).norm(dim=1), (FIRST - THIRD).norm(dim=1)
    torch.testing.assert_close(value, (near - far + 0.5).clamp_min(0).mean())
    assert share == N


@pytest.mark.parametrize(
    ("loss_fn", "form"),
    [
        (nn.CosineEmbeddingLoss(), "2 outputs.*(x1, x2)"),
        (nn.MarginRankingLoss(), "2 outputs.*(x1, x2)"),
        (nn.TripletMarginLoss(), "3 outputs.*(anchor, positive, negative)"),
        (nn.TripletMarginWithDistanceLoss(), "3 outputs.*(anchor, positive, negative)"),
    ],
)
@pytest.mark.parametrize("y_pred", [FIRST, (FIRST,), (FIRST,) * 4])
def test_outputs_that_are_missing_are_named(loss_fn, form, y_pred):
    name = type(loss_fn).__name__
    got = "one output" if y_pred is FIRST else f"{len(y_pred)} outputs"
    count, _, names = form.partition(".*")
    with pytest.raises(MisfitError) as info:
        parts(loss_fn, y_pred, SIGNS)
    assert str(info.value) == (
        f"{name} compares {count}, but the net returned {got}; return {names} from the net"
    )


# AdaptiveLogSoftmaxWithLoss


def test_the_adaptive_softmax_gives_its_loss_and_its_parameters():
    torch.manual_seed(0)
    loss_fn = nn.AdaptiveLogSoftmaxWithLoss(C, 12, [4, 8], div_value=1.0)
    y_true = torch.randint(0, 12, (N,))
    value, share = parts(loss_fn, FIRST, y_true)
    torch.testing.assert_close(value, F.nll_loss(loss_fn.log_prob(FIRST), y_true))
    assert share == N
    found = dict(Objective(loss_fn).named_parameters(nn.Linear(1, 1)))
    assert found == dict(loss_fn.named_parameters())
    assert all(p.grad is None for p in found.values())
    value.backward()
    assert all(p.grad is not None for p in found.values())
