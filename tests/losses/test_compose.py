import copy
import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import L1, L1L2, L2, Composition, FocalLoss, Objective, Penalty, term

N, C = 8, 3
torch.manual_seed(0)
PREDICTED, TRUTH = torch.rand(N, C), torch.rand(N, C).round()
NET = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, C))


def squared(y_pred, y_true):
    return (y_pred - y_true).square().mean()


def scaled(y_pred, y_true, scale=1.0):
    return scale * squared(y_pred, y_true)


def bent(y_pred, y_true):
    return (y_pred - y_true).abs().sqrt().mean()


MSE, MAE = squared(PREDICTED, TRUTH), F.l1_loss(PREDICTED, TRUTH)
WEIGHTS = [layer.weight for layer in NET]
SUM = sum(weight.abs().sum() for weight in WEIGHTS)
HALF = 0.5 * sum(weight.square().sum() for weight in WEIGHTS)
FOCAL = FocalLoss(gamma=0, alpha=None)  # a plain cross entropy
BCE = F.binary_cross_entropy(PREDICTED, TRUTH)


def value(formula, epoch=0):
    return formula(PREDICTED, TRUTH, NET, epoch)


# Arithmetic


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (FOCAL + L2(), BCE + HALF),
        (L2() + FOCAL, BCE + HALF),
        (FOCAL - L2(), BCE - HALF),
        (L2() - FOCAL, HALF - BCE),
        (2 * FOCAL, 2 * BCE),
        (FOCAL * 2, 2 * BCE),
        (FOCAL / 4, BCE / 4),
        (-FOCAL, -BCE),
        (term(FOCAL), BCE),
        (nn.MSELoss() + L2(), MSE + HALF),
        (L2() + nn.MSELoss(), MSE + HALF),
        (nn.MSELoss() - L2(), MSE - HALF),
        (L2() - nn.MSELoss(), HALF - MSE),
        (squared + L1(), MSE + SUM),
        (L1() + squared, MSE + SUM),
        (squared - L1(), MSE - SUM),
        ("mse" + L1(), MSE + SUM),
        (L1() + "mse", MSE + SUM),
        ("mse" - L1(), MSE - SUM),
        ((lambda p, t: p.sum()) + L1(), PREDICTED.sum() + SUM),
        (partial(scaled, scale=3.0) + L1(), 3 * MSE + SUM),
        (F.mse_loss + FOCAL, MSE + BCE),
        (FOCAL + F.l1_loss + nn.MSELoss() + "mse" + squared, BCE + MAE + 3 * MSE),
        (sum([FOCAL, nn.MSELoss(), L2()]), BCE + MSE + HALF),
        (sum([L2(), L1()], start=term("mse")), MSE + HALF + SUM),
        (FOCAL + L1L2(0.1, 0.2), BCE + 0.1 * SUM + 0.2 * HALF),
        (0.5 * (2 * FOCAL + 4 * (L2() - 3 * L1())), BCE + 2 * HALF - 6 * SUM),
        (-(FOCAL - L2()) / 2, (HALF - BCE) / 2),
        (FOCAL - (L2() - L1()), BCE - HALF + SUM),
        (L1() + L2(), SUM + HALF),
        (0 * FOCAL + 0 * L2(), 0 * BCE),
        (1e-3 * term("mse") + -2 * L2(0.5), 1e-3 * MSE - HALF),
    ],
)
def test_a_formula_is_worth_what_plain_arithmetic_gives(formula, expected):
    torch.testing.assert_close(value(formula), expected)


@pytest.mark.parametrize(
    "weight",
    [
        0.25,
        np.float64(0.25),
        np.float32(0.25),
        torch.tensor(0.25),
        torch.tensor([0.25], dtype=torch.float64),
    ],
)
def test_weights_are_numbers_of_any_kind(weight):
    for formula in (weight * FOCAL, FOCAL * weight, weight * L2(), weight * (FOCAL + L2())):
        expected = value(FOCAL + 0 * L2()) if formula.terms[0].fn is FOCAL else 0
        expected = expected + HALF if formula.terms[-1].penalizes else expected
        torch.testing.assert_close(value(formula), 0.25 * expected)
        assert all(type(t.factor) is float for t in formula.terms)
    torch.testing.assert_close(value(FOCAL / weight), BCE / 0.25)


def test_whole_numbers_are_weights_too():
    for weight in (3, np.int64(3), torch.tensor(3), True + True + True):
        torch.testing.assert_close(value(weight * FOCAL), 3 * BCE)


def test_nested_formulas_are_flat_and_their_weights_multiply():
    formula = 2 * (FOCAL + 3 * (nn.MSELoss() + 5 * (term("l1") - 0.1 * L2())))
    assert [t.factor for t in formula.terms] == [2, 6, 30, -3]
    assert isinstance(formula, Composition)


def test_the_operands_are_not_changed():
    first, second = 2 * FOCAL, 3 * L2()
    repr_before = repr(first), repr(second)
    _ = 5 * (first + second) - first
    assert (repr(first), repr(second)) == repr_before


def test_gradients_are_those_of_the_formula():
    x, y = torch.rand(N, 2), torch.rand(N, C).round()
    formula = 2 * FocalLoss(from_logits=True) + 0.1 * L2() - 0.01 * L1() + "mse"
    by_hand = (
        2 * FocalLoss(from_logits=True)(NET(x), y)
        + 0.05 * sum(weight.square().sum() for weight in WEIGHTS)
        - 0.01 * sum(weight.abs().sum() for weight in WEIGHTS)
        + F.mse_loss(NET(x), y)
    )
    parameters = list(NET.parameters())
    found = torch.autograd.grad(formula(NET(x), y, NET), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, parameters))


def test_penalties_alone_take_the_net():
    torch.testing.assert_close((0.1 * L2() + L1())(NET), 0.1 * HALF + SUM)
    torch.testing.assert_close((0.1 * L2())(None, None, NET), 0.1 * HALF)


def test_a_formula_by_hand_compares_several_outputs():
    formula = term({"a": "mse", "b": [None, 2 * term("l1")]}) + L2()
    y_pred, y_true = {"a": PREDICTED, "b": (0, PREDICTED)}, {"a": TRUTH, "b": (0, TRUTH)}
    torch.testing.assert_close(formula(y_pred, y_true, NET), MSE + 2 * MAE + HALF)


def test_a_formula_by_hand_averages_losses_per_sample():
    formula = 2 * term(lambda p, t: (p - t).square(), per_sample=True)
    torch.testing.assert_close(formula(PREDICTED, TRUTH), 2 * MSE)


def test_penalties_by_hand_need_the_net():
    with pytest.raises(TypeError, match=r"MSELoss\(\) \+ L2\(\) penalizes a net; pass it: loss_fn"):
        (nn.MSELoss() + L2())(PREDICTED, TRUTH)


def test_penalties_by_hand_need_something_to_penalize():
    with pytest.raises(ValueError, match=r"L2\(\) finds no parameter to penalize in ReLU"):
        (nn.MSELoss() + L2())(PREDICTED, TRUTH, nn.ReLU())


def test_calling_a_formula_leaves_the_modes_of_its_losses_alone():
    formula = term(nn.Sequential()) + nn.MSELoss()
    formula.eval()
    objective = (term("mse") + FOCAL).eval()
    objective(PREDICTED, TRUTH)
    assert not any(loss.training for loss in objective.losses)


# Schedules


def rising(epoch):
    return (epoch + 1) / 10


def test_weights_may_depend_on_the_epoch():
    formula = FOCAL + rising * L2() + 4 * (L1() * rising) * (lambda epoch: 2.0**-epoch)
    for epoch in (0, 3, 9):
        expected = BCE + rising(epoch) * HALF + 4 * rising(epoch) * 2.0**-epoch * SUM
        torch.testing.assert_close(value(formula, epoch), expected)


class Halving:
    def __call__(self, epoch):
        return np.float32(0.5**epoch)


@pytest.mark.parametrize("schedule", [Halving(), partial(pow, 0.5), lambda e: torch.tensor(0.5**e)])
def test_anything_that_can_be_called_is_a_schedule(schedule):
    torch.testing.assert_close(value(schedule * FOCAL, 3), BCE / 8)


# Wrong formulas


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), torch.tensor(-torch.inf), np.nan])
def test_a_weight_that_is_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match=r"the weight of L2\(\) is -?(nan|inf); expected a finite"):
        _ = weight * L2()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("0.1", "a str"),
        ([0.1], "a list"),
        (None, "a NoneType"),
        (torch.ones(2), r"tensor\(\[1., 1.\]\)"),
        (torch.tensor(1.0, requires_grad=True), "a tensor that requires a gradient"),
        (
            nn.Parameter(torch.ones(())),
            r"a tensor that requires a gradient \(a weight to learn bel",
        ),
        (nn.MSELoss(), "a MSELoss"),
        (L1, "the class L1"),
        (1j, "a complex"),
    ],
)
def test_a_weight_that_is_no_number_is_refused(weight, message):
    with pytest.raises(TypeError, match=rf"the weight of L2\(\) is {message}.*; expected a number"):
        _ = L2() * weight
    with pytest.raises(TypeError, match=rf"the weight of L2\(\) is {message}"):
        _ = weight * L2()


def test_losses_cant_be_multiplied():
    with pytest.raises(TypeError, match=r"the weight of FocalLoss.* is a L2; expected a number"):
        _ = FOCAL * L2()


@pytest.mark.parametrize("divisor", [0, 0.0, np.float64(0), torch.tensor(0.0)])
def test_a_division_by_zero_is_refused(divisor):
    with pytest.raises(ValueError, match=r"can't divide a loss by .*0.*; expected a number other"):
        _ = FOCAL / divisor


@pytest.mark.parametrize("divisor", ["2", rising, FOCAL, None])
def test_a_division_by_no_number_is_refused(divisor):
    with pytest.raises(TypeError, match=r"can't divide a loss by a .*; expected a number other"):
        _ = FOCAL / divisor


@pytest.mark.parametrize("number", [1, 0.5, torch.tensor(2.0), np.float64(3.0)])
def test_a_number_cant_be_added(number):
    message = r"can't add .* to a loss; multiply by weights, and add losses"
    with pytest.raises(TypeError, match=message):
        _ = FOCAL + number
    with pytest.raises(TypeError, match=message):
        _ = number - FOCAL


def test_a_class_cant_be_added():
    with pytest.raises(TypeError, match=r"loss_fn is the class MSELoss; pass MSELoss\(\)"):
        _ = FOCAL + nn.MSELoss
    with pytest.raises(TypeError, match=r"loss_fn is the class L2; pass L2\(\)"):
        _ = FOCAL + L2
    with pytest.raises(TypeError, match=r"loss_fn is the class FocalLoss; pass FocalLoss\(\)"):
        _ = {"a": FocalLoss} + L2()


@pytest.mark.parametrize("wrong", [None, object()])
def test_what_is_no_loss_cant_be_added(wrong):
    with pytest.raises(TypeError, match="expected a callable"):
        _ = FOCAL + wrong


def test_an_unknown_name_has_a_close_one():
    message = r"unknown loss 'crossentropy' \(did you mean 'cross_entropy'\?\)"
    with pytest.raises(ValueError, match=message):
        _ = "crossentropy" + L2()


@pytest.mark.parametrize("nothing", [{}, [], {"a": None}, [None, {}]])
def test_outputs_without_any_loss_are_refused(nothing):
    with pytest.raises(ValueError, match="without a loss; pass a loss for at least one output"):
        term(nothing)


# Names


def test_a_name_may_be_chosen():
    assert [t.name for t in FocalLoss().named("hard").terms] == ["hard"]
    assert [t.name for t in (term(squared, name="fit") + L2()).terms] == ["fit", None]
    assert [t.name for t in L1().named("a").named("b").terms] == ["b"]
    torch.testing.assert_close(value((0.1 * L2()).named("decay") * 3), 0.3 * HALF)


def test_a_name_is_for_one_term():
    message = r"named\(\) names one term, but MSELoss\(\) \+ L2\(\) has 2; name each of them before"
    with pytest.raises(ValueError, match=message):
        (nn.MSELoss() + L2()).named("all")
    with pytest.raises(ValueError, match=r"named\(\) names one term"):
        term({"a": "mse", "b": "mse"}, name="both")


@pytest.mark.parametrize("name", ["", "loss", "a.b", None, 3])
def test_a_name_that_is_no_column_is_refused(name):
    with pytest.raises(ValueError, match=f"a term can't be called {name!r}; expected a name such"):
        FocalLoss().named(name)


# As a module


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, y_pred, y_true):
        return self.scale * squared(y_pred, y_true)


def test_a_formula_gives_and_moves_the_parameters_of_its_losses():
    learned = Learned()
    formula = 0.1 * (term(learned) + learned) + L2()
    assert list(formula.parameters()) == [learned.scale]
    formula.double()
    assert learned.scale.dtype == torch.float64
    formula.requires_grad_(False)
    assert not learned.scale.requires_grad


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_a_formula_can_be_copied_and_pickled(copied):
    learned = Learned()
    formula = 2 * (learned + rising * L2(include="0.weight")).__add__(squared) - FocalLoss().named(
        "x"
    )
    same = copied(formula)
    assert repr(same) == repr(formula)
    torch.testing.assert_close(value(same, 4), value(formula, 4))
    with torch.no_grad():
        same.losses[0].scale.mul_(3.0)
    assert learned.scale == 2.0
    torch.testing.assert_close(value(same) - value(formula), 8 * MSE)


def test_the_state_of_a_formula_is_that_of_its_losses():
    formula, other = Learned() + L2(), Learned() + L2()
    with torch.no_grad():
        other.losses[0].scale.fill_(5.0)
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    formula.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(value(formula), 5 * MSE + HALF)


# Penalties of one's own


class Cubes(Penalty):
    """Knows nothing of what a Penalty keeps."""

    def __init__(self, alpha):
        self.alpha = alpha

    def value(self, weights):
        return self.alpha * sum(weight.abs().pow(3).sum() for weight in weights)


def test_a_penalty_of_ones_own_takes_part():
    cubes = sum(weight.abs().pow(3).sum() for weight in WEIGHTS)
    torch.testing.assert_close(Cubes(0.1)(NET), 0.1 * cubes)
    formula = FOCAL + 2 * Cubes(0.1) - L2()
    torch.testing.assert_close(value(formula), BCE + 0.2 * cubes - HALF)
    assert "+ 2 * Cubes(...)" in repr(formula)
    with pytest.raises(ValueError, match=r"Cubes\(...\) finds no parameter to penalize in ReLU"):
        Cubes(1.0)(nn.ReLU())


def test_a_penalty_must_say_how_much():
    with pytest.raises(NotImplementedError):
        Penalty()(NET)


def test_a_formula_of_penalties_of_ones_own_can_be_bound_to_a_net():
    objective = Objective(FOCAL + Cubes(0.1))
    assert objective(PREDICTED, TRUTH, None)[1][0] == 0  # not bound yet
    objective.bind(NET)
    torch.testing.assert_close(objective(PREDICTED, TRUTH, None)[1][0], Cubes(0.1)(NET))
