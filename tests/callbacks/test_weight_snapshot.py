"""Best weights of nets whose parameters are renamed while they train."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback
from fitorch.callbacks.weight_snapshot import WeightSnapshot


def restored(change, before=None):
    """Take a snapshot, change the net, and restore; return the net, and its state before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    if before is not None:
        before(net)
    model, snapshot = KerasModel(net, "mse"), WeightSnapshot()
    snapshot.take(model)
    first = copy.deepcopy(net.state_dict())
    change(net)
    with torch.no_grad():
        net[2].weight.mul_(3)  # as further epochs do
    snapshot.restore(model)
    return net, first


def pruned(net):
    prune.l1_unstructured(net[0], "weight", 0.9)


def test_pruning_since_the_best_epoch_keeps_its_weights_and_the_masks():
    with pytest.warns(UserWarning, match="restored with the present masks"):
        net, first = restored(pruned)
    assert torch.equal(net[0].weight_orig, first["0.weight"])
    assert torch.equal(net[2].weight, first["2.weight"])
    assert net[0].weight_mask.sum() == 3


def test_pruning_that_was_made_permanent_keeps_the_pruned_weights():
    with pytest.warns(UserWarning, match="restored with the present masks"):
        net, first = restored(lambda net: prune.remove(net[0], "weight"), before=pruned)
    assert torch.equal(net[0].weight, first["0.weight_orig"] * first["0.weight_mask"])
    assert torch.equal(net[2].weight, first["2.weight"])


def test_other_new_names_leave_the_net_as_it_is_and_are_named():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    with pytest.warns(UserWarning, match=r"renamed .*\(0.parametrizations.weight.original\)"):
        net, _ = restored(
            lambda net: parametrize.register_parametrization(net[0], "weight", Doubled())
        )
    assert parametrize.is_parametrized(net[0])


def test_a_pruned_net_whose_masks_stay_is_restored_as_any_other():
    net, first = restored(lambda net: None, before=pruned)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in first.items())


def test_early_stopping_with_pruning_ends_without_an_error():
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    y = net(x).detach()  # which the first epoch fits, and a pruned net does not
    prune_late = LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch == 1 and pruned(net))
    model = KerasModel(net, "mse", None, lambda p: torch.optim.SGD(p, 0.0))
    with pytest.warns(UserWarning, match="restored with the present masks"):
        model.fit((x, y), (x, y), epochs=3, patience=3, verbose=0, callbacks=[prune_late])
    assert model.history.best["epoch"] == 1
