import gc
import io
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch.losses import L1, L2, FocalLoss, MisfitError, Objective, SCELoss, term

N, C = 12, 5
VALUES = torch.randn(N, C)
TARGETS = torch.randn(N, C)


def squared(y_pred, y_true):
    return (y_pred - y_true).square().mean()


class CenterLoss(nn.Module):
    """The distance to centers that are learned, with a buffer beside them."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(C, C))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, y_pred, y_true):
        return self.scale * (y_pred - self.centers[y_true]).square().mean()


# Names


@pytest.mark.parametrize(
    ("loss_fn", "names"),
    [
        ("mse", []),
        (0.3 * term("mse"), []),
        ({"age": "mse"}, []),
        (nn.MSELoss() + 1e-3 * L2(), ["mse", "l2"]),
        (1e-3 * L2() + term("mse"), ["mse", "l2"]),  # losses first
        (FocalLoss() + L1() + L1() + L2(), ["focal", "l1", "l1_2", "l2"]),
        (L2(), ["own", "l2"]),
        ({"age": "mse", "sex": "cross_entropy"}, ["age", "sex"]),
        ({"age": nn.MSELoss() + 0.1 * L2(), "sex": squared}, ["age", "sex", "l2"]),
        ({"age": "mse" + term("l1"), "sex": squared}, ["age_mse", "age_l1", "sex"]),
        (["mse", None, "l1"], ["output_0", "output_2"]),
    ],
)
def test_terms_have_names_where_there_are_several(loss_fn, names):
    assert Objective(loss_fn).names == names


def test_a_term_is_never_called_like_a_metric():
    objective = Objective(FocalLoss() + L1() + term("mse"), ["focal", "l1", "l1_loss"])
    assert objective.names == ["focal_loss", "mse", "l1_loss_2"]


def test_an_objective_is_called_by_its_name():
    assert Objective("mse").name == "MSELoss"
    assert Objective(squared).name == "squared"
    assert Objective(squared + 0.1 * L2()).name == "squared + l2"


# What it gives


def test_a_batch_gives_a_weighted_value_and_a_share_for_each_term():
    net = nn.Linear(3, 2)
    objective = Objective(2 * term("mse") - 0.5 * term("l1") + 3 * L2(0.1))
    objective.bind(net)
    parts = objective(VALUES, TARGETS, None)
    mse, l1 = F.mse_loss(VALUES, TARGETS), F.l1_loss(VALUES, TARGETS)
    penalty = 0.05 * net.weight.square().sum()
    torch.testing.assert_close([v for v, _ in parts], [2 * mse, -0.5 * l1, 3 * penalty])
    assert [share for _, share in parts] == [N, N, N]
    torch.testing.assert_close(objective.total(parts), 2 * mse - 0.5 * l1 + 3 * penalty)


def test_the_losses_of_a_window_of_batches_add_up_to_those_of_one_batch():
    objective = Objective("cross_entropy" + 0.5 * term(nn.MultiMarginLoss(reduction="sum")))
    y_true = torch.arange(N) % C
    whole = objective.total(objective.compare(VALUES, y_true, None))
    total = 0.0
    for index in torch.arange(N).split(5):
        divisors = [N / len(index)] * 2
        total += objective.total(objective.compare(VALUES[index], y_true[index], None), divisors)
    torch.testing.assert_close(total, whole)


def test_the_mean_of_a_sum_is_one_of_samples():
    assert Objective({"a": nn.MSELoss(reduction="sum"), "b": "mse"}).summed == [True, False]
    ((value, share),) = Objective(nn.MSELoss(reduction="sum"))(VALUES, TARGETS, None)
    assert (value, share) == (F.mse_loss(VALUES, TARGETS, reduction="sum"), N)


def test_the_nets_own_loss_is_used_where_there_is_no_other():
    output = SimpleNamespace(loss=torch.tensor(2.5))
    objective = Objective(None)
    assert objective(output, torch.zeros(7), None) == [(2.5, 7)]
    assert objective.name == "the net's own loss"
    assert objective.uses_net_loss
    assert list(objective.named_parameters(nn.Linear(1, 1))) == []


def test_penalties_alone_go_with_the_nets_own_loss():
    net = nn.Linear(2, 1)
    objective = Objective(0.5 * L2())
    objective.bind(net)
    (own, _), (l2, share) = objective(SimpleNamespace(loss=torch.tensor(2.5)), VALUES, None)
    assert (own, share) == (2.5, N)
    torch.testing.assert_close(l2, 0.25 * net.weight.square().sum())


@pytest.mark.parametrize(
    ("loss_fn", "output", "scale"),
    [
        (nn.MSELoss(), (), None),
        (nn.BCELoss(), (), "probabilities"),
        (nn.BCEWithLogitsLoss() + L2(), (), "logits"),
        (nn.CrossEntropyLoss(), (), "class_logits"),
        (nn.NLLLoss(), (), "class_logits"),
        (FocalLoss(), (), "probabilities"),
        (FocalLoss(from_logits=True) + L2(), (), "logits"),
        (SCELoss(), (), "logits"),
        (lambda p, t: p.mean(), (), None),
        ("mse" + FocalLoss(), (), "probabilities"),
        ({"a": "bce", "b": "mse"}, ("a",), "probabilities"),
        ({"a": "bce", "b": "mse"}, ("b",), None),
        ({"a": "bce", "b": "mse"}, (), None),
        (None, (), None),
    ],
)
def test_losses_tell_what_predictions_are(loss_fn, output, scale):
    assert Objective(loss_fn).prediction_kind(output) == scale


# Weights that change


def warm(epoch):
    return min(1.0, epoch / 4)


def test_the_weights_of_an_epoch_are_scheduled():
    net = nn.Linear(2, 1)
    objective = Objective(term("mse") + warm * (2 * L2()) + 0.1 * L1())
    objective.bind(net)
    size = net.weight.square().sum().item()
    for epoch, weight in ((0, 0.0), (1, 0.5), (9, 2.0), (2, 1.0)):
        objective.begin_epoch(epoch)
        assert objective.weights == {"l2_weight": weight}
        assert objective(VALUES, TARGETS, None)[1][0].item() == pytest.approx(weight * 0.5 * size)


def test_a_scheduled_loss_is_weighted_too():
    objective = Objective(warm * term("mse", name="fit"))
    objective.begin_epoch(2)
    assert objective.weights == {"fit_weight": 0.5}
    assert objective(VALUES, TARGETS, None)[0][0] == 0.5 * F.mse_loss(VALUES, TARGETS)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "1", None, torch.ones(2)])
def test_a_schedule_that_gives_no_number_is_refused(wrong):
    objective = Objective(term("mse") + (lambda epoch: wrong if epoch == 3 else 1.0) * L2())
    objective.begin_epoch(2)
    message = r"the weight of L2\(\) in epoch 3, from <lambda>, is .*; expected a finite number"
    with pytest.raises(ValueError, match=message):
        objective.begin_epoch(3)


# Nets


def test_a_second_net_leaves_no_trace_of_the_first():
    loss_fn = term("mse") + L2()
    objective = Objective(loss_fn)
    first, second = nn.Linear(3, 2), nn.Linear(4, 1)
    objective.bind(first)
    first_penalty = objective(VALUES, TARGETS, None)[1][0]
    objective.bind(second)
    value = objective(VALUES, TARGETS, None)[1][0]
    torch.testing.assert_close(value, 0.5 * second.weight.square().sum())
    assert torch.autograd.grad(value, second.weight)[0].equal(second.weight.detach())
    with pytest.raises(RuntimeError, match="used in the graph"):
        torch.autograd.grad(objective(VALUES, TARGETS, None)[1][0], first.weight)
    gone = weakref.ref(first), weakref.ref(first.weight)
    del first, first_penalty
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_one_formula_serves_two_objectives():
    loss_fn = term("mse") + warm * L2()
    nets = nn.Linear(3, 2), nn.Linear(4, 1)
    objectives = Objective(loss_fn), Objective(loss_fn)
    for epoch, (objective, net) in enumerate(zip(objectives, nets, strict=True), start=2):
        objective.bind(net)
        objective.begin_epoch(epoch)
    for epoch, (objective, net) in enumerate(zip(objectives, nets, strict=True), start=2):
        penalty = objective(VALUES, TARGETS, None)[1][0]
        torch.testing.assert_close(penalty, epoch / 8 * net.weight.square().sum())


def test_nothing_to_penalize_is_refused_where_that_matters():
    net = nn.Linear(3, 2).requires_grad_(False)
    objective = Objective(term("mse") + L2())
    objective.bind(net)
    assert objective(VALUES, TARGETS, None)[1][0] == 0
    with pytest.raises(ValueError, match=r"L2\(\) finds no parameter to penalize in Linear, whose"):
        objective.bind(net, strictly=True)


# Parameters of losses


def test_a_loss_with_parameters_gives_and_moves_them():
    loss_fn = CenterLoss()
    objective = Objective(loss_fn)
    assert dict(objective.named_parameters(nn.Linear(1, 1))) == {"centers": loss_fn.centers}
    objective.to(torch.device("meta"))
    assert loss_fn.centers.is_meta
    assert loss_fn.scale.is_meta


def test_several_losses_give_all_their_parameters():
    first, second = CenterLoss(), CenterLoss()
    objective = Objective({"a": first, "b": 0.1 * term(second), "c": "mse"})
    found = dict(objective.named_parameters(nn.Linear(1, 1)))
    assert found == {"a.centers": first.centers, "b.centers": second.centers}


def test_a_loss_that_is_used_twice_gives_its_parameters_once():
    loss_fn = CenterLoss()
    objective = Objective([loss_fn, loss_fn])
    assert dict(objective.named_parameters(nn.Linear(1, 1))) == {
        "output_0.centers": loss_fn.centers
    }


def test_the_nets_parameters_are_not_the_losses_own():
    loss_fn = CenterLoss()
    net = nn.Linear(C, C)
    net.weight = loss_fn.centers
    assert list(Objective(loss_fn).named_parameters(net)) == []


def test_the_state_of_the_losses_is_saved_and_put_back():
    saved, other = CenterLoss(), CenterLoss()
    other.scale.fill_(7.0)
    file = io.BytesIO()
    torch.save(Objective(saved + 0.1 * L2()).state_dict(), file)
    file.seek(0)
    Objective(other + 0.1 * L2()).load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.centers, saved.centers)
    assert other.scale == 2.0


def test_the_state_of_other_losses_is_refused():
    state = Objective(CenterLoss()).state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Objective("mse").load_state_dict(state)


def test_a_learned_loss_can_be_weighted_by_sample():
    class Weighted(CenterLoss):
        reduction = "mean"

        def forward(self, y_pred, y_true):
            losses = self.scale * (y_pred - self.centers[y_true]).square().mean(1)
            return losses if self.reduction == "none" else losses.mean()

    loss_fn, y_true = Weighted(), torch.arange(N) % C
    ((value, _),) = Objective(loss_fn)(VALUES, y_true, torch.ones(N))
    expected = torch.autograd.grad(loss_fn(VALUES, y_true), loss_fn.centers)
    torch.testing.assert_close(torch.autograd.grad(value, loss_fn.centers), expected)


# Misfits


def test_the_losses_of_all_outputs_are_checked():
    objective = Objective({"a": "mse", "b": {"c": "cross_entropy"}})
    y_pred = {"a": VALUES, "b": {"c": VALUES}}
    objective.check(y_pred, {"a": TARGETS, "b": {"c": torch.arange(N) % C}})
    with pytest.raises(MisfitError, match="CrossEntropyLoss got class 5, but"):
        objective.check(y_pred, {"a": TARGETS, "b": {"c": torch.full((N,), 5)}})
    with pytest.raises(MisfitError, match="CrossEntropyLoss got class 5, but"):
        objective.check_targets(y_pred, {"a": TARGETS, "b": {"c": torch.full((99,), 5)}})
    with pytest.raises(MisfitError, match="MSELoss got predictions of shape"):
        objective.check(y_pred, {"a": TARGETS[:, 0], "b": {"c": torch.arange(N) % C}})


def test_an_output_with_a_loss_needs_targets():
    objective = Objective({"a": "mse", "b": None})
    objective.check({"a": VALUES, "b": VALUES}, {"a": TARGETS, "b": None})
    message = "output 'a' has a loss, but its targets are None; remove the loss"
    with pytest.raises(MisfitError, match=message):
        objective.check({"a": VALUES, "b": VALUES}, {"a": None, "b": TARGETS})


def test_a_loss_that_needs_no_targets_gets_none():
    objective = Objective(nn.TripletMarginLoss())
    objective.check((VALUES, VALUES, TARGETS), None)
    ((value, share),) = objective((VALUES, VALUES, TARGETS), None, None)
    assert (value, share) == (F.triplet_margin_loss(VALUES, VALUES, TARGETS), N)


def test_the_shares_of_losses_are_known_from_the_targets():
    objective = Objective({"a": "mse", "b": nn.CrossEntropyLoss(ignore_index=0)} | {"c": None})
    y_true = {"a": TARGETS, "b": torch.arange(N) % C, "c": None}
    assert objective.normalizers(None, y_true) == [N, N - 3]
    weight = {"a": torch.full((N,), 0.5), "b": torch.arange(float(N))}
    assert objective.normalizers(None, y_true, weight) == [N / 2, 66 - 0 - 5 - 10]
