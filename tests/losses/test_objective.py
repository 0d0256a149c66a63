from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fitorch.losses import L2, Objective

N, C = 12, 5


GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


VALUES, PIXELS = normal(N, C), normal(N, C, 3, 2)
NUMBERS = torch.randint(C, (N,), generator=GENERATOR)
MAP = torch.randint(C, (N, 3, 2), generator=GENERATOR)
BITS = (normal(N, 1) > 0).double()
TENSORS = {
    "classes": (VALUES, NUMBERS),
    "log classes": (VALUES.log_softmax(1), NUMBERS),
    "binary": (VALUES[:, :1], BITS),
    "probabilities": (VALUES[:, :1].sigmoid(), BITS),
    "signs": (VALUES, normal(N, C).sign()),
    "distributions": (VALUES.log_softmax(1), normal(N, C).softmax(1)),
    "pixels": (PIXELS, MAP),
    "ignored pixels": (PIXELS, torch.where(normal(N, 3, 2) < 0.4, -100, MAP)),
    "values": (VALUES, normal(N, C).abs()),
}
CLASS_WEIGHT = torch.tensor([0.1, 1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
CASES = [
    (nn.CrossEntropyLoss(), "classes"),
    (nn.CrossEntropyLoss(weight=CLASS_WEIGHT), "classes"),
    (nn.CrossEntropyLoss(ignore_index=1), "classes"),
    (nn.CrossEntropyLoss(weight=CLASS_WEIGHT, ignore_index=1, label_smoothing=0.1), "classes"),
    (nn.CrossEntropyLoss(label_smoothing=0.1), "distributions"),
    (nn.CrossEntropyLoss(weight=CLASS_WEIGHT), "distributions"),
    (nn.CrossEntropyLoss(), "pixels"),
    (nn.CrossEntropyLoss(weight=CLASS_WEIGHT), "ignored pixels"),
    (nn.NLLLoss(), "log classes"),
    (nn.NLLLoss(weight=CLASS_WEIGHT, ignore_index=2), "log classes"),
    (nn.BCEWithLogitsLoss(), "binary"),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), "binary"),
    (nn.BCELoss(), "probabilities"),
    (nn.MSELoss(), "values"),
    (nn.L1Loss(), "values"),
    (nn.HuberLoss(), "values"),
    (nn.SmoothL1Loss(beta=0.5), "values"),
    (nn.PoissonNLLLoss(), "values"),
    (nn.SoftMarginLoss(), "signs"),
    (nn.HingeEmbeddingLoss(), "signs"),
    (nn.MultiMarginLoss(), "classes"),
    (nn.MultiLabelSoftMarginLoss(), "signs"),
    (nn.KLDivLoss(reduction="batchmean"), "distributions"),
]
EVERY = pytest.mark.parametrize(
    ("loss_fn", "kind"), CASES, ids=[f"{type(loss).__name__}-{kind}" for loss, kind in CASES]
)
PIECES = pytest.mark.parametrize("size", [1, 5, N])


def squared(y_pred, y_true):
    return (y_pred - y_true).square().mean()


def single(loss_fn):
    """The one term of an objective that is a single loss."""
    return Objective(loss_fn).losses[0]


def over_batches(objective, y_pred, y_true, weight, size):
    """The epoch's figure out of batches of `size`."""
    pieces = []
    for start in range(0, N, size):
        part = slice(start, start + size)
        pieces.append(
            objective(y_pred[part], y_true[part], None if weight is None else weight[part])
        )
    pieces = [(loss, share) for loss, share in pieces if share != 0]
    return sum(loss * share for loss, share in pieces) / sum(share for _, share in pieces)


def close(value):
    return pytest.approx(value.item(), rel=1e-12)


@EVERY
def test_the_loss_of_a_batch_is_torchs_own(loss_fn, kind):
    y_pred, y_true = TENSORS[kind]
    loss, _ = single(loss_fn)(y_pred, y_true, None)
    assert torch.equal(loss, loss_fn(y_pred, y_true))


@EVERY
@PIECES
def test_the_figure_of_an_epoch_does_not_depend_on_its_batches(loss_fn, kind, size):
    y_pred, y_true = TENSORS[kind]
    value = over_batches(single(loss_fn), y_pred, y_true, None, size)
    assert value.item() == close(loss_fn(y_pred, y_true))


@EVERY
@PIECES
def test_weights_of_one_change_nothing(loss_fn, kind, size):
    y_pred, y_true = TENSORS[kind]
    value = over_batches(single(loss_fn), y_pred, y_true, torch.ones(N), size)
    assert value.item() == close(loss_fn(y_pred, y_true))


@EVERY
@PIECES
def test_whole_weights_repeat_samples(loss_fn, kind, size):
    y_pred, y_true = TENSORS[kind]
    weight = torch.arange(N) % 4
    expected = loss_fn(y_pred.repeat_interleave(weight, 0), y_true.repeat_interleave(weight, 0))
    value = over_batches(single(loss_fn), y_pred, y_true, weight.double(), size)
    assert value.item() == close(expected)


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_a_sum_is_weighted_too(kind):
    y_pred, y_true = TENSORS["values"]
    weight = torch.linspace(0, 2, N, dtype=torch.float64)
    loss, share = single(nn.MSELoss(reduction=kind))(y_pred, y_true, weight)
    squares = (y_pred - y_true).square()
    mean = (squares.mean(1) * weight).sum() / weight.sum()
    expected = mean if kind == "mean" else (squares.sum(1) * weight).sum()
    assert loss.item() == close(expected)
    assert share == weight.sum()


def test_weights_may_be_a_column():
    y_pred, y_true = TENSORS["values"]
    weight = torch.rand(N, dtype=torch.float64)
    objective = single(nn.MSELoss())
    flat, column = (objective(y_pred, y_true, w)[0] for w in (weight, weight.unsqueeze(1)))
    assert torch.equal(flat, column)


def test_weights_of_nothing_give_no_loss_and_no_share():
    y_pred, y_true = TENSORS["values"]
    loss, share = single("mse")(y_pred, y_true, torch.zeros(N))
    assert (loss, share) == (0, 0)


def test_the_loss_fn_itself_is_never_changed():
    y_pred, y_true = TENSORS["values"]
    loss_fn = nn.MSELoss()
    single(loss_fn)(y_pred, y_true, torch.ones(N))
    assert loss_fn.reduction == "mean"


@pytest.mark.parametrize("loss_fn", [lambda p, t: (p - t).square().mean(), None])
def test_a_loss_without_reduction_cant_be_weighted(loss_fn):
    y_pred, y_true = TENSORS["values"]
    with pytest.raises(TypeError, match=r"need a loss per sample.*per_sample=True"):
        single(loss_fn)(y_pred, y_true, torch.ones(N))


def test_a_loss_that_is_not_one_per_sample_cant_be_weighted():
    class Own(nn.Module):
        reduction = "mean"

        def forward(self, y_pred, y_true):
            return (y_pred - y_true).square().mean()

    y_pred, y_true = TENSORS["values"]
    with pytest.raises(
        ValueError, match=r"Own\(\) gives losses of shape \(\) for 12 sample weights"
    ):
        single(Own())(y_pred, y_true, torch.ones(N))


def test_the_nets_own_loss_is_used_where_there_is_no_other():
    output = SimpleNamespace(loss=torch.tensor(2.5))
    objective = Objective(None)
    assert objective(output, torch.zeros(7), None) == [(2.5, 7)]
    assert objective.name == "the net's own loss"
    assert list(objective.named_parameters(nn.Linear(1, 1))) == []


@pytest.mark.parametrize(
    ("y_true", "share"),
    [
        (torch.zeros(7, 2), 7),
        ((torch.zeros(4), torch.zeros(4, 3)), 4),
        ({"age": torch.zeros(3, 1)}, 3),
        (None, 5),
    ],
)
def test_the_share_is_the_number_of_samples(y_true, share):
    assert single(lambda p, t: p.sum()).share({"out": torch.zeros(5, 2)}, y_true) == share


def test_the_share_with_weights_is_that_of_the_call():
    y_pred, y_true = TENSORS["ignored pixels"]
    weight = torch.rand(N, dtype=torch.float64)
    for loss_fn in (nn.CrossEntropyLoss(weight=CLASS_WEIGHT), nn.CrossEntropyLoss()):
        objective = single(loss_fn)
        assert objective.share(None, y_true, weight) == objective(y_pred, y_true, weight)[1]


def test_a_loss_with_parameters_gives_and_moves_them():
    loss_fn = nn.Linear(2, 2)
    objective = Objective(loss_fn)
    assert dict(objective.named_parameters(nn.Linear(1, 1))) == dict(loss_fn.named_parameters())
    weighted = Objective(nn.CrossEntropyLoss(weight=torch.ones(3)))
    weighted.to(torch.device("meta"))
    assert weighted.losses[0].loss_fn.weight.device.type == "meta"


def test_an_objective_is_called_by_its_name():
    assert Objective("mse").name == "MSELoss"
    assert Objective(squared).name == "squared"
    assert Objective(squared + 0.1 * L2()).name == "squared + l2"


def test_soft_targets_in_training_and_class_numbers_in_validation_go_together():
    loss_fn = nn.CrossEntropyLoss(weight=CLASS_WEIGHT)
    soft, hard = TENSORS["distributions"], TENSORS["classes"]
    for order in ((soft, hard, soft), (hard, soft, hard)):
        objective = single(loss_fn)
        for y_pred, y_true in order:
            value = over_batches(objective, y_pred, y_true, None, 5)
            assert value.item() == close(loss_fn(y_pred, y_true))


@pytest.mark.parametrize("y_true", ["cat", ["cat", "dog"], [1.0, 2.0], {}, 3, torch.tensor(1.0)])
def test_targets_that_are_no_tensors_of_samples_are_refused(y_true):
    with pytest.raises(TypeError, match="can't tell how many samples a batch has"):
        single(lambda p, t: p.sum()).share(None, y_true)
