from functools import partial

import pytest
import torch.nn.functional as F
from torch import nn

from fitorch.losses import L1, L1L2, L2, FocalLoss, Penalty, term
from fitorch.losses.column_names import names_of
from fitorch.losses.compose import terms_of


def squared(y_pred, y_true):
    return (y_pred - y_true).square().mean()


def scaled(y_pred, y_true, scale=1.0):
    return scale * squared(y_pred, y_true)


def rising(epoch):
    return (epoch + 1) / 10


class Halving:
    def __call__(self, epoch):
        return 0.5**epoch


class Cubes(Penalty):
    pass


# Names


def called(*losses, taken=()):
    return names_of([t for loss in losses for t in terms_of(loss)], taken)


class PinballLoss(nn.Module):
    pass


class Loss(nn.Module):
    pass


class HTTPNorm:
    def __call__(self, y_pred, y_true):
        return y_pred

    def loss(self, y_pred, y_true):
        return y_pred


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (FocalLoss(), "focal"),
        (L1(), "l1"),
        (L2(0.1), "l2"),
        (L1L2(), "l1_l2"),
        (nn.BCEWithLogitsLoss(), "bce_with_logits"),
        ("binary_cross_entropy_with_logits", "bce_with_logits"),
        (nn.CrossEntropyLoss(), "cross_entropy"),
        (nn.MSELoss(), "mse"),
        ("mse", "mse"),
        ("mae", "l1"),
        (nn.SmoothL1Loss(), "smooth_l1"),
        (nn.NLLLoss(), "nll"),
        (nn.GaussianNLLLoss(), "gaussian_nll"),
        (nn.KLDivLoss(reduction="batchmean"), "kl_div"),
        (nn.CTCLoss(), "ctc"),
        (nn.MultiLabelSoftMarginLoss(), "multi_label_soft_margin"),
        (nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2]), "adaptive_log_softmax"),
        (nn.TripletMarginWithDistanceLoss(), "triplet_margin_with_distance"),
        (F.cross_entropy, "cross_entropy"),
        (partial(F.cross_entropy, label_smoothing=0.1), "cross_entropy"),
        (squared, "squared"),
        (partial(partial(scaled), scale=2.0), "scaled"),
        (lambda p, t: p, "custom"),
        (PinballLoss(), "pinball"),
        (Loss(), "custom"),
        (HTTPNorm(), "http_norm"),
        (HTTPNorm().loss, "custom"),
        (Cubes(), "cubes"),
    ],
)
def test_a_term_is_called_after_its_loss(loss, name):
    assert called(loss) == [name]
    assert called(0.1 * term(loss)) == [name]


def test_equal_names_are_numbered():
    assert called("mse", "mse", nn.MSELoss(), L2(), L2()) == ["mse", "mse_2", "mse_3", "l2", "l2_2"]


def test_chosen_names_are_numbered_too():
    formula = term("mse", name="a") + term("l1", name="a") + term("huber", name="a_2")
    assert called(formula) == ["a", "a_2", "a_2_2"]


def test_the_names_of_metrics_are_taken():
    assert called("mse", "l1", taken=["mse"]) == ["mse_loss", "l1"]
    assert called("mse", "mse", taken=["mse", "mse_loss"]) == ["mse_loss_2", "mse_loss_3"]


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        ({"age": "mse", "sex": "cross_entropy"}, ["age", "sex"]),
        (["mse", "cross_entropy"], ["output_0", "output_1"]),
        (("mse", None, "l1"), ["output_0", "output_2"]),
        ({"age": term("mse") + "l1" + L2(), "sex": "bce"}, ["age_mse", "age_l1", "l2", "sex"]),
        ({"a": {"b": "mse", "c": ["l1"]}}, ["a_b", "a_c_output_0"]),
        ({"a": term("mse", name="fit"), "b": "mse"}, ["fit", "b"]),
        ({"a.b": "mse", 7: "mse"}, ["a_b", "output_7"]),
        ({"loss": "mse", "b": "mse"}, ["loss_2", "b"]),
    ],
)
def test_the_loss_of_an_output_is_called_after_it(loss, names):
    assert called(loss) == names


# How it reads


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (
            FocalLoss(gamma=2.0, alpha=0.75) + 1e-3 * L2() + 1e-3 * L1(),
            "FocalLoss(gamma=2, alpha=0.75) + 0.001 * L2() + 0.001 * L1()",
        ),
        (nn.MSELoss() - 0.5 * L2(0.1), "MSELoss() - 0.5 * L2(0.1)"),
        (-L1() - nn.L1Loss(), "-L1() - L1Loss()"),
        (-2 * L1() + squared, "-2 * L1() + squared"),
        (nn.BCELoss() + L1L2(l1=1e-4, l2=1e-3), "BCELoss() + L1L2(l1=0.0001, l2=0.001)"),
        (rising * (2 * L2(include="a.*")), "2 * rising * L2(include='a.*')"),
        (L2(exclude=rising) + term("mse", name="a"), "L2(exclude=rising) + MSELoss().named('a')"),
        (0.3 * term({"a": {"b": "mse"}}) + L2(), "0.3 * MSELoss() on ['a']['b'] + L2()"),
        ((lambda p, t: p) + L2(), "<lambda> + L2()"),
        (partial(scaled, scale=2.0) + L2(), "scaled + L2()"),
        (L2() + nn.Sequential(nn.Linear(1, 1)), "L2() + Sequential(...)"),
        (HTTPNorm() + Halving() * L2(), "HTTPNorm(...) + Halving(...) * L2()"),
        (term(FocalLoss(alpha=[0.2, 0.8])), "FocalLoss(gamma=2, alpha=[0.2, 0.8])"),
    ],
)  # fmt: skip
def test_a_formula_reads_like_one(formula, text):
    assert repr(formula) == text
