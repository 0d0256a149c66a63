import re

import pytest
import torch
from torch import nn

from fitorch import DataError, KerasModel
from fitorch.losses import MisfitError, check, check_targets

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
        "NLLLoss needs class numbers of shape (6,), but got targets of shape (6, 4), one-hot it "
        "seems; pass y.argmax(1)"
    )


def test_one_hot_whole_numbers_are_refused():
    for kind in (nn.CrossEntropyLoss, nn.NLLLoss):
        message = refusal(kind(), FLOATS, nn.functional.one_hot(CLASSES))
        assert message.endswith("targets of shape (6, 4), one-hot it seems; pass y.argmax(1)")


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
        "relabel the targets or give the last layer more outputs"
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
