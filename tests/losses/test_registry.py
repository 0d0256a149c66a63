from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import CosineLoss, DiceLoss, FocalLoss, SCELoss, get
from fitorch.losses.registry import LOSSES

SPELLED = {
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "binary_cross_entropy": nn.BCELoss,
    "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
    "cosine": CosineLoss,
    "cosine_embedding": nn.CosineEmbeddingLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "ctc": nn.CTCLoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "gaussian_nll": nn.GaussianNLLLoss,
    "hinge_embedding": nn.HingeEmbeddingLoss,
    "huber": nn.HuberLoss,
    "kl_div": nn.KLDivLoss,
    "l1": nn.L1Loss,
    "mae": nn.L1Loss,
    "margin_ranking": nn.MarginRankingLoss,
    "mse": nn.MSELoss,
    "multi_margin": nn.MultiMarginLoss,
    "multilabel_margin": nn.MultiLabelMarginLoss,
    "multilabel_soft_margin": nn.MultiLabelSoftMarginLoss,
    "nll": nn.NLLLoss,
    "poisson_nll": nn.PoissonNLLLoss,
    "sce": SCELoss,
    "smooth_l1": nn.SmoothL1Loss,
    "soft_margin": nn.SoftMarginLoss,
    "triplet_margin": nn.TripletMarginLoss,
    "triplet_margin_with_distance": nn.TripletMarginWithDistanceLoss,
}


def test_an_unknown_name_is_refused_with_the_sorted_names():
    assert set(LOSSES) == set(SPELLED)
    with pytest.raises(ValueError, match=", ".join(sorted(SPELLED))):
        get("nothing_like_it")


@pytest.mark.parametrize("name", SPELLED)
def test_a_name_gives_torchs_loss(name):
    made = get(name)
    assert type(made) is SPELLED[name]
    assert made is not get(name)
    plain = SPELLED[name](reduction="batchmean") if name == "kl_div" else SPELLED[name]()
    assert {k: v for k, v in vars(made).items() if not k.startswith("_")} == {
        k: v for k, v in vars(plain).items() if not k.startswith("_")
    }


@pytest.mark.parametrize("loss", [nn.MSELoss(), lambda p, t: p.sum()])
def test_a_loss_or_a_function_is_taken_as_it_is(loss):
    assert get(loss) is loss


@pytest.mark.parametrize(
    ("name", "close"),
    [("crossentropy", "cross_entropy"), ("MSE", "mse"), ("hubert", "huber"), ("xyz", None)],
)
def test_an_unknown_name_lists_the_closest_and_all(name, close):
    with pytest.raises(ValueError, match=f"unknown loss '{name}'") as info:
        get(name)
    assert "expected one of bce, bce_with_logits" in str(info.value)
    hint = f" (did you mean {close!r}?); expected" if close else "; expected"
    assert f"unknown loss {name!r}{hint}" in str(info.value)


def test_a_class_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"loss_fn is the class MSELoss; pass MSELoss\(\)"):
        get(nn.MSELoss)


@pytest.mark.parametrize("wrong", [3, ["mse"], None])
def test_what_is_no_loss_is_refused(wrong):
    with pytest.raises(
        TypeError, match=f"loss_fn is a {type(wrong).__name__}; expected a callable"
    ):
        get(wrong)


@pytest.mark.parametrize("name", [*LOSSES.values()])
def test_classes_are_names_too(name):
    if isinstance(name, type):
        assert type(get(name.__name__)) is name


@pytest.mark.parametrize("name", ["KLDivLoss", "kl_div"])
def test_the_divergence_by_name_is_divided_by_the_samples(name):
    assert get(name).reduction == "batchmean"


@pytest.mark.parametrize("loss", [nn.KLDivLoss(), F.kl_div, partial(F.kl_div, log_target=True)])
def test_a_divergence_divided_by_the_elements_warns(loss):
    with pytest.warns(UserWarning, match=r"KLDivLoss\(reduction='mean'\) divides by the number of"):
        get(loss)
    get(nn.KLDivLoss(reduction="sum"))
    get(partial(F.kl_div, reduction="batchmean"))


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.mse_loss, nn.MSELoss),
        (partial(F.huber_loss, delta=0.3), nn.HuberLoss),
        (partial(F.cross_entropy, ignore_index=3, label_smoothing=0.1), nn.CrossEntropyLoss),
    ],
)
def test_a_function_of_torch_becomes_its_module(function, kind):
    made = get(function)
    assert type(made) is kind
    keywords = function.keywords if isinstance(function, partial) else {}
    assert {name: getattr(made, name) for name in keywords} == keywords


def test_a_partial_of_ones_own_stays_one():
    loss = partial(lambda scale, p, t: scale * p.sum(), 3.0)
    assert get(loss) is loss
    positional = partial(F.mse_loss, torch.zeros(3))
    assert get(positional) is positional


class Unhashable:
    __hash__ = None

    def __call__(self, y_pred, y_true):
        return y_pred


def test_a_loss_need_not_be_hashable():
    loss = Unhashable()
    assert get(loss) is loss
