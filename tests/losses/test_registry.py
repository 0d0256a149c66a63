import pytest
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


def test_the_names_are_sorted():
    assert list(LOSSES) == sorted(LOSSES)
    assert set(LOSSES) == set(SPELLED)


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
    ("name", "close"), [("crossentropy", "cross_entropy"), ("MSE", None), ("hubert", "huber")]
)
def test_an_unknown_name_lists_the_closest_and_all(name, close):
    with pytest.raises(ValueError, match=f"unknown loss '{name}'") as info:
        get(name)
    assert "expected one of bce, bce_with_logits" in str(info.value)
    assert (f"did you mean '{close}'?" in str(info.value)) == (close is not None)


def test_a_class_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"loss_fn is the class MSELoss; pass MSELoss\(\)"):
        get(nn.MSELoss)


@pytest.mark.parametrize("wrong", [3, ["mse"], None])
def test_what_is_no_loss_is_refused(wrong):
    with pytest.raises(
        TypeError, match=f"loss_fn is a {type(wrong).__name__}; expected a callable"
    ):
        get(wrong)
