import re
from functools import partial

import pytest
import torch
from torch import nn

from fitorch import DataError, KerasModel
from fitorch.losses import (
    Composition,
    CosineLoss,
    DiceLoss,
    FocalLoss,
    MisfitError,
    Objective,
    SCELoss,
    check,
    check_targets,
    term,
)
from fitorch.losses.names import name_of

N, C = 6, 4
FLOATS = torch.rand(N, C)
CLASSES = torch.arange(N) % C


def refusal(loss_fn, y_pred, y_true):
    with pytest.raises(MisfitError) as info:
        check(loss_fn, y_pred, y_true)
    return str(info.value)


@pytest.mark.parametrize(
    ("loss_fn", "y_pred", "y_true"),
    [
        (nn.MSELoss(), FLOATS, FLOATS),
        (nn.L1Loss(), FLOATS[:, 0], FLOATS[:, 0]),
        (nn.BCELoss(), FLOATS, FLOATS.round()),
        (nn.BCEWithLogitsLoss(), FLOATS * 9, FLOATS.round()),
        (nn.CrossEntropyLoss(), FLOATS, CLASSES),
        (nn.CrossEntropyLoss(), FLOATS, FLOATS.softmax(1)),
        (nn.CrossEntropyLoss(), FLOATS, CLASSES.to(torch.uint8)),
        (nn.CrossEntropyLoss(), FLOATS, torch.where(CLASSES == 1, -100, CLASSES)),
        (nn.CrossEntropyLoss(), torch.rand(N, C, 3, 3), torch.ones(N, 3, 3).long()),
        (nn.CrossEntropyLoss(), torch.rand(C), torch.tensor(1)),
        (nn.NLLLoss(), FLOATS.log_softmax(1), CLASSES),
        (lambda p, t: p.sum(), FLOATS, CLASSES),
        (lambda p, t: p.sum(), {"a": FLOATS}, [CLASSES]),
        (nn.HingeEmbeddingLoss(), FLOATS, FLOATS.sign()),
    ],
)
def test_what_fits_passes_and_torch_agrees(loss_fn, y_pred, y_true):
    check(loss_fn, y_pred, y_true)
    if isinstance(y_pred, torch.Tensor):
        assert loss_fn(y_pred, y_true).isfinite()


@pytest.mark.parametrize("kind", [nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss])
def test_a_column_against_a_row_is_refused(kind):
    name = kind.__name__
    assert refusal(kind(), FLOATS[:, :1], FLOATS[:, 0]) == (
        f"{name} got predictions of shape (6, 1) and targets of shape (6,); they must be equal "
        "(y.unsqueeze(-1), or .squeeze(-1) at the end of the net)"
    )
    assert refusal(kind(), FLOATS[:, 0], FLOATS[:, :1]) == (
        f"{name} got predictions of shape (6,) and targets of shape (6, 1); they must be equal "
        "(y.squeeze(-1))"
    )


def test_other_shapes_are_the_last_layers_business():
    assert "(6, 4) and targets of shape (6, 1); they must be equal (the net's last layer" in (
        refusal(nn.MSELoss(), FLOATS, FLOATS[:, :1])
    )


@pytest.mark.parametrize("kind", [nn.MSELoss, nn.BCELoss, nn.BCEWithLogitsLoss])
def test_whole_numbers_for_a_loss_over_floats_are_refused(kind):
    assert refusal(kind(), FLOATS[:, 0], CLASSES) == (
        f"{kind.__name__} needs float targets, but got torch.int64; pass y.float()"
    )


@pytest.mark.parametrize("y_pred", [torch.tensor([0.5, 1.5]), torch.tensor([-2.0, 0.5])])
def test_logits_for_bce_are_refused(y_pred):
    message = refusal(nn.BCELoss(), y_pred, torch.ones(2))
    assert "BCELoss needs probabilities in [0, 1], but got predictions from" in message
    assert message.endswith("use nn.BCEWithLogitsLoss, or end the net with nn.Sigmoid")


def test_one_hot_targets_for_nll_are_refused():
    assert refusal(nn.NLLLoss(), FLOATS, nn.functional.one_hot(CLASSES).float()) == (
        "NLLLoss needs class numbers of shape (6,), but got targets of shape (6, 4), "
        "apparently one-hot; pass y.argmax(1)"
    )


def test_one_hot_whole_numbers_are_refused():
    for kind in (nn.CrossEntropyLoss, nn.NLLLoss):
        message = refusal(kind(), FLOATS, nn.functional.one_hot(CLASSES))
        assert message.endswith("targets of shape (6, 4), apparently one-hot; pass y.argmax(1)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int32, torch.int16, torch.int8])
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_class_numbers_of_another_dtype_are_refused(kind, dtype):
    y_true = CLASSES.to(dtype)
    assert refusal(kind(), FLOATS, y_true) == (
        f"{kind.__name__} needs class numbers of dtype int64, but got targets of dtype {dtype} "
        "and shape (6,); pass y.long()"
    )
    with pytest.raises(RuntimeError):
        kind()(FLOATS, y_true)  # torch agrees


def test_class_numbers_in_a_column_are_refused():
    assert refusal(nn.CrossEntropyLoss(), FLOATS, CLASSES.unsqueeze(1)) == (
        "CrossEntropyLoss got predictions of shape (6, 4) and targets of shape (6, 1); pass "
        "targets of shape (6,)"
    )


@pytest.mark.parametrize("wrong", [4, 17, -1])
def test_a_class_out_of_range_is_refused(wrong):
    y_true = CLASSES.clone()
    y_true[3] = wrong
    assert refusal(nn.CrossEntropyLoss(), FLOATS, y_true) == (
        f"CrossEntropyLoss got class {wrong}, but the net's output has 4 classes, numbered 0 to 3; "
        "relabel the targets, or add outputs to the last layer"
    )


def test_an_ignored_class_may_be_out_of_range():
    check(nn.CrossEntropyLoss(ignore_index=9), FLOATS, torch.where(CLASSES == 1, 9, CLASSES))


def test_targets_of_the_whole_data_are_checked():
    with pytest.raises(MisfitError, match="got class 7"):
        check_targets(nn.CrossEntropyLoss(), FLOATS, torch.tensor([0, 1, 2, 3] * 5 + [7]))
    check_targets(nn.MSELoss(), FLOATS, torch.tensor([7]))
    check_targets(nn.CrossEntropyLoss(), {"a": FLOATS}, torch.tensor([7]))
    check_targets(nn.CrossEntropyLoss(), FLOATS, FLOATS)


def squared(y_pred, y_true):
    return (y_pred - y_true).square().mean()


@pytest.mark.parametrize("pair", [(FLOATS[:, :1], FLOATS[:, 0]), (FLOATS[:, 0], FLOATS[:, :1])])
def test_a_function_that_would_broadcast_by_accident_warns(pair):
    with pytest.warns(UserWarning, match=r"broadcast to a matrix of all pairs in squared"):
        check(squared, *pair)


def test_a_single_sample_broadcasts_to_itself():
    check(squared, FLOATS[:1, :1], FLOATS[:1, 0])


def test_a_misfit_reaches_the_user_as_a_data_error_with_the_shapes():
    model = KerasModel(nn.Linear(2, 1), "mse")
    with pytest.raises(DataError, match=re.escape("float32 (6, 2), float32 (6,)")) as info:
        model.fit((torch.rand(6, 2), torch.rand(6)), verbose=0)
    assert "epoch 1, training batch 1" in str(info.value)
    assert len(model.history) == 0


# Every loss of torch.nn: what is right passes, and torch agrees


LOG = FLOATS.log_softmax(1)
ADAPTIVE = nn.AdaptiveLogSoftmaxWithLoss(C, 9, [3], div_value=1.0)
LISTS = torch.tensor([[0, 3, -1, 1]]).repeat(N, 1)
FITTING = [
    (nn.BCELoss(), FLOATS, FLOATS),
    (nn.BCELoss(), FLOATS.round(), FLOATS.round()),
    (nn.BCEWithLogitsLoss(), FLOATS - 9, FLOATS),
    (nn.MultiLabelSoftMarginLoss(), FLOATS - 9, FLOATS.round()),
    (nn.HuberLoss(), FLOATS[:, :1], FLOATS[:, :1]),
    (nn.SmoothL1Loss(), FLOATS.double(), FLOATS),
    (nn.L1Loss(), FLOATS.to(torch.complex64), FLOATS.to(torch.complex64)),
    (nn.PoissonNLLLoss(), FLOATS, torch.ones(N, C)),
    (nn.PoissonNLLLoss(full=True), FLOATS, torch.full((N, C), 7)),
    (nn.KLDivLoss(reduction="batchmean"), LOG, FLOATS.softmax(1)),
    (nn.KLDivLoss(reduction="sum", log_target=True), LOG, LOG),
    (nn.NLLLoss(), LOG, CLASSES),
    (nn.NLLLoss(ignore_index=9), LOG, torch.full((N,), 9).where(CLASSES == 1, 0)),
    (nn.CrossEntropyLoss(), FLOATS - 0.5, CLASSES),
    (nn.CrossEntropyLoss(), torch.zeros(N, 1), torch.zeros(N, dtype=torch.int64)),
    (nn.CrossEntropyLoss(), torch.rand(N, C, 5), torch.rand(N, C, 5).softmax(1)),
    (nn.MultiMarginLoss(), FLOATS, CLASSES),
    (nn.MultiLabelMarginLoss(), FLOATS, LISTS),
    (nn.HingeEmbeddingLoss(), FLOATS, torch.ones(N, C).long()),
    (nn.SoftMarginLoss(), FLOATS, -torch.ones(N, C)),
    (nn.CosineEmbeddingLoss(), (FLOATS, FLOATS), torch.ones(N)),
    (nn.CosineEmbeddingLoss(), (FLOATS, FLOATS), -torch.ones(N).long()),
    (nn.MarginRankingLoss(), (FLOATS, FLOATS), torch.ones(N, C)),
    (nn.TripletMarginLoss(), (FLOATS, FLOATS, FLOATS), torch.zeros(N)),
    (nn.TripletMarginWithDistanceLoss(), (FLOATS, FLOATS, FLOATS), None),
    (nn.GaussianNLLLoss(), (FLOATS, FLOATS + 1), FLOATS),
    (nn.GaussianNLLLoss(), (FLOATS, torch.ones(N)), FLOATS),
    (nn.GaussianNLLLoss(), FLOATS, (FLOATS[:, :1], torch.ones(N, 1))),
    (nn.CTCLoss(), torch.rand(9, 2, C).log_softmax(2), (CLASSES[1:3], torch.ones(2).long())),
    (ADAPTIVE, FLOATS, torch.tensor([0, 3, 8, 1, 2, 7])),
    (FocalLoss(), FLOATS, FLOATS.round()),
    (FocalLoss(), FLOATS[:, 0], FLOATS[:, 0]),
    (FocalLoss(from_logits=True), FLOATS - 9, CLASSES),
    (FocalLoss(from_logits=True), FLOATS - 9, CLASSES.to(torch.uint8)),
    (FocalLoss(alpha=[1.0] * C), FLOATS.softmax(1), CLASSES),
    (FocalLoss(from_logits=True), torch.rand(N, C, 2, 2), torch.ones(N, 2, 2).long()),
    (SCELoss(), FLOATS - 9, CLASSES),
    (SCELoss(C, from_logits=False), FLOATS.softmax(1), CLASSES),
    (SCELoss(), FLOATS[:, :1] - 9, FLOATS[:, :1].round()),
    (DiceLoss(), FLOATS, FLOATS.round()),
    (DiceLoss(from_logits=True), torch.rand(N, C, 2, 2) - 9, torch.ones(N, 2, 2).long()),
    (CosineLoss(), FLOATS - 9, FLOATS),
    (term(nn.MSELoss()), FLOATS, FLOATS),
    (lambda p, t: (p - t).square().mean(), FLOATS, FLOATS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("loss_fn", "y_pred", "y_true"),
    FITTING,
    ids=[f"{name_of(loss)}-{number}" for number, (loss, *_) in enumerate(FITTING)],
)  # fmt: skip
def test_what_is_right_is_never_refused(loss_fn, y_pred, y_true):
    if isinstance(loss_fn, Composition):
        Objective(loss_fn).check(y_pred, y_true)
    else:
        check(loss_fn, y_pred, y_true)
    ((value, _),) = Objective(loss_fn)(y_pred, y_true, None)
    assert value.isfinite()


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="since torch 2.13")
def test_the_linear_cross_entropy_is_checked_by_its_own_classes():
    loss_fn = nn.LinearCrossEntropyLoss(C, 9)
    check(loss_fn, FLOATS, torch.tensor([0, 3, 8, -100, 2, 7]))
    check(loss_fn, FLOATS, torch.rand(N, 9).softmax(1))
    assert refusal(loss_fn, FLOATS, torch.full((N,), 9)).startswith(
        "LinearCrossEntropyLoss got class 9, but the net's output has 9 classes, numbered 0 to 8"
    )
    assert refusal(loss_fn, FLOATS, torch.zeros(N)).endswith("shape (6,); pass y.long()")
    with pytest.raises(RuntimeError):
        loss_fn(FLOATS, torch.zeros(N))


def test_empty_batches_are_not_refused():
    for loss_fn in (nn.BCELoss(), nn.CrossEntropyLoss(), nn.NLLLoss(), FocalLoss(), SCELoss()):
        classes = loss_fn.__class__ in (nn.CrossEntropyLoss, nn.NLLLoss)
        check(loss_fn, FLOATS[:0], CLASSES[:0] if classes else FLOATS[:0])


# What torch would misread, or reject without saying what to do


@pytest.mark.parametrize("kind", [nn.HingeEmbeddingLoss, nn.SoftMarginLoss])
def test_bits_for_a_loss_over_signs_are_refused(kind):
    assert refusal(kind(), FLOATS, FLOATS.round().clamp(0, 0)) == (
        f"{kind.__name__} needs targets that are -1 or 1, but got 0; for targets of 0 and 1 pass "
        "2 * y - 1"
    )
    assert kind()(FLOATS, torch.zeros(N, C)).isfinite()  # torch says nothing


@pytest.mark.parametrize("loss_fn", [nn.CosineEmbeddingLoss(), nn.MarginRankingLoss()])
def test_bits_for_a_comparison_are_refused(loss_fn):
    y_true = torch.tensor([1.0, 1, 0, 1, 1, 1])
    pair = (
        (FLOATS, FLOATS + 1) if isinstance(loss_fn, nn.CosineEmbeddingLoss) else (FLOATS[:, 0],) * 2
    )
    assert refusal(loss_fn, pair, y_true).endswith(
        "needs targets that are -1 or 1, but got 0; for targets of 0 and 1 pass 2 * y - 1"
    )
    assert loss_fn(*pair, y_true).isfinite()  # torch says nothing


def test_a_column_against_a_row_is_refused_for_means_too():
    message = "GaussianNLLLoss got predictions of shape (6, 1) and targets of shape (6,); they must"
    column, row = FLOATS[:, :1], FLOATS[:, 0]
    assert message in refusal(nn.GaussianNLLLoss(), (column, column + 1), row)
    assert message in refusal(nn.GaussianNLLLoss(), column, (row, column + 1))
    assert nn.GaussianNLLLoss()(column, row, column + 1).isfinite()  # torch says nothing


@pytest.mark.parametrize(
    "kind",
    [
        nn.BCELoss,
        nn.HingeEmbeddingLoss,
        nn.KLDivLoss,
        nn.MultiLabelMarginLoss,
        nn.MultiLabelSoftMarginLoss,
        nn.PoissonNLLLoss,
        nn.SmoothL1Loss,
        nn.SoftMarginLoss,
        CosineLoss,
        DiceLoss,
        FocalLoss,
        SCELoss,
    ],
)
def test_shapes_that_differ_are_refused(kind):
    for y_pred, y_true in ((FLOATS[:, :1], FLOATS[:, 0]), (FLOATS[:, 0], FLOATS[:, :1])):
        message = refusal(kind(), y_pred, y_true)
        assert f"{kind.__name__} got predictions of shape {tuple(y_pred.shape)} and" in message
    assert "the net's last layer determines" in refusal(kind(), FLOATS, FLOATS[:, :2])


def test_lists_of_classes_are_checked():
    name = "MultiLabelMarginLoss"
    assert refusal(nn.MultiLabelMarginLoss(), FLOATS, torch.ones(N, C)) == (
        f"{name} needs class numbers of dtype int64, but got targets of dtype torch.float32 and "
        "shape (6, 4); pass y.long()"
    )
    for wrong in (4, -2):
        y_true = torch.full((N, C), wrong)
        assert f"{name} got class {wrong}, but" in refusal(
            nn.MultiLabelMarginLoss(), FLOATS, y_true
        )
        with pytest.raises(RuntimeError):
            nn.MultiLabelMarginLoss()(FLOATS, y_true)
    with pytest.raises(MisfitError, match="got class 9"):
        check_targets(nn.MultiLabelMarginLoss(), FLOATS, torch.full((99, C), 9))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_margins_over_classes_need_64_bits(dtype):
    message = refusal(nn.MultiMarginLoss(), FLOATS, CLASSES.to(dtype))
    assert message.endswith(f"got targets of dtype {dtype} and shape (6,); pass y.long()")
    with pytest.raises(RuntimeError):
        nn.MultiMarginLoss()(FLOATS, CLASSES.to(dtype))


def test_classes_of_an_adaptive_softmax_are_checked_by_its_own():
    assert refusal(ADAPTIVE, FLOATS, torch.full((N,), 9)) == (
        "AdaptiveLogSoftmaxWithLoss got class 9, but the net's output has 9 classes, numbered 0 to "
        "8; relabel the targets, or add outputs to the last layer"
    )
    message = refusal(ADAPTIVE, FLOATS, torch.zeros(N))
    assert message.startswith("AdaptiveLogSoftmaxWithLoss needs class numbers of dtype int64, but")
    with pytest.raises(MisfitError, match="got class 99"):
        check_targets(ADAPTIVE, FLOATS, torch.full((7,), 99))


@pytest.mark.parametrize("loss_fn", [nn.NLLLoss(), nn.KLDivLoss(reduction="batchmean")])
def test_logits_in_place_of_logarithms_warn(loss_fn):
    y_true = CLASSES if isinstance(loss_fn, nn.NLLLoss) else FLOATS.softmax(1)
    message = r"expects logarithms of probabilities, at most 0, but .* nn.LogSoftmax\(dim=1\)"
    with pytest.warns(UserWarning, match=message):
        check(loss_fn, FLOATS + 1, y_true)


def test_probabilities_in_place_of_logits_warn():
    with pytest.warns(UserWarning, match=r"predictions look like probabilities .none is neg"):
        check(nn.CrossEntropyLoss(), FLOATS.softmax(1), CLASSES)


OURS = [FocalLoss, SCELoss, DiceLoss]


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("y_true", [CLASSES, FLOATS.round()])
def test_logits_for_a_loss_over_probabilities_are_refused(kind, y_true):
    logits = 3 * FLOATS - 1
    assert refusal(kind(from_logits=False), logits, y_true) == (
        f"{kind.__name__} needs probabilities in [0, 1], but got predictions from "
        f"{logits.min():.4g} to {logits.max():.4g}; pass {kind.__name__}(from_logits=True)"
    )
    check(kind(from_logits=True), logits, y_true)


@pytest.mark.parametrize("kind", OURS)
def test_float_class_numbers_are_refused(kind):
    assert refusal(kind(), FLOATS, CLASSES.float()) == (
        f"{kind.__name__} needs class numbers of dtype int64, but got targets of dtype "
        "torch.float32 and shape (6,); pass y.long()"
    )


@pytest.mark.parametrize("kind", [*OURS, CosineLoss])
def test_whole_numbers_in_place_of_floats_are_refused_by_ours(kind):
    assert refusal(kind(), FLOATS, FLOATS.round().long()) == (
        f"{kind.__name__} needs float targets, but got torch.int64; pass y.float()"
    )


@pytest.mark.parametrize("kind", OURS)
def test_a_class_out_of_range_is_refused_by_ours(kind):
    y_true = CLASSES.clone()
    y_true[2] = C
    assert f"{kind.__name__} got class 4, but the net's output has 4" in refusal(
        kind(), FLOATS, y_true
    )
    with pytest.raises(MisfitError, match="got class 4"):
        check_targets(kind(), FLOATS, y_true)


@pytest.mark.parametrize("kind", OURS)
def test_a_single_output_is_never_several_classes(kind):
    message = refusal(kind(), FLOATS[:, :1], CLASSES)
    assert "(6, 1) and targets of shape (6,); they must be equal (y.unsqueeze(-1)" in message


def test_a_scalar_target_is_no_class_of_ours():
    assert "must be equal" in refusal(FocalLoss(), FLOATS[0], torch.tensor(1))


def test_a_partial_is_called_by_its_function():
    with pytest.warns(UserWarning, match="all pairs in squared; make the shapes equal"):
        check(partial(squared), FLOATS[:, :1], FLOATS[:, 0])
