"""Layers that are added to a net, or replaced, after the optimizer was built."""

import copy
import warnings

import pytest
import torch
from torch import nn, optim

from fitorch import KerasModel

X = torch.linspace(-1, 1, 36).reshape(12, 3)
Y = X.sum(1, keepdim=True)
BUILT = {"none": None, "a name": "sgd", "a function": lambda p: optim.SGD(p, 0.1)}


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh())


def head():
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def fit(model, **options):
    return model.fit((X, Y), **{"epochs": 2, "seed": 0, "verbose": 0, **options})


@pytest.mark.parametrize("optimizer", BUILT.values(), ids=BUILT)
def test_an_added_layer_trains_as_one_that_was_there(optimizer):
    whole = nn.Sequential(*body(), head())
    fit(KerasModel(whole, "mse", optimizer=optimizer))
    net = body()
    model = KerasModel(net, "mse", optimizer=optimizer)
    net.append(head())
    kind = type(model.optimizer).__name__
    with pytest.warns(UserWarning, match=rf"2 new parameters \(2.weight, 2.bias\); {kind} trains"):
        fit(model)
    for trained, expected in zip(net.parameters(), whole.parameters(), strict=True):
        assert torch.equal(trained, expected)


@pytest.mark.parametrize("optimizer", BUILT.values(), ids=BUILT)
def test_a_replaced_layer_trains_and_the_old_one_is_dropped(optimizer):
    net = nn.Sequential(*body(), nn.Linear(4, 7))
    model = KerasModel(net, "mse", optimizer=optimizer)
    net[2] = head()
    with pytest.warns(UserWarning, match="2 new parameters"):
        fit(model)
    assert not torch.equal(net[2].weight, head().weight)
    held = [p for group in model.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in net.parameters()]


def test_state_and_schedule_stay_and_it_says_so_once():
    net = body()
    schedule = lambda o: optim.lr_scheduler.StepLR(o, 1, 0.5)  # noqa: E731
    net.append(nn.Linear(4, 1))
    model = KerasModel(net, "mse", None, "adam", schedule)
    fit(model)
    before = copy.deepcopy(model.optimizer.state[net[0].weight])
    net.append(nn.Linear(1, 1))
    with pytest.warns(UserWarning, match="2 new parameters"):
        fit(model)
    assert model.optimizer.state[net[0].weight]["step"] > before["step"]
    assert len(model.optimizer.param_groups) == 1
    fit(model)


def test_groups_of_a_function_get_one_more():
    net = body()
    groups = lambda p: optim.SGD([{"params": p[:1], "lr": 0.2}, {"params": p[1:]}], 0.1)  # noqa: E731
    model = KerasModel(net, "mse", optimizer=groups)
    net.append(head())
    with pytest.warns(UserWarning, match="2 new parameters"):
        fit(model)
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.2, 0.1, 0.1]
    assert not torch.equal(net[2].weight, head().weight)


def test_a_users_optimizer_stays_and_a_warning_counts():
    net = nn.Sequential(*body(), head())
    model = KerasModel(net, "mse", optimizer=optim.SGD(net.parameters(), 0.1))
    net.append(nn.Linear(1, 1))
    before = net[3].weight.clone()
    with pytest.warns(UserWarning, match=r"2 new parameters.*SGD does not train them.*param_group"):
        fit(model)
    assert torch.equal(net[3].weight, before)


TRAINS_THE_HEAD = {
    "an instance": lambda net: optim.SGD(net[2].parameters(), 0.1),
    "a function": lambda net: lambda p: optim.SGD(p[-2:], 0.1),
}


@pytest.mark.parametrize("make", TRAINS_THE_HEAD.values(), ids=TRAINS_THE_HEAD)
def test_whoever_trains_the_head_alone_is_not_warned(make):
    net = nn.Sequential(*body(), head())
    before = net[0].weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(KerasModel(net, "mse", optimizer=make(net)))
    assert torch.equal(net[0].weight, before)
    assert not torch.equal(net[2].weight, head().weight)


def test_frozen_layers_that_are_added_to_a_users_optimizer_are_no_matter():
    net = nn.Sequential(*body(), head())
    model = KerasModel(net, "mse", optimizer=optim.SGD(net.parameters(), 0.1))
    net.append(nn.Linear(1, 1).requires_grad_(False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model)


def test_an_added_layer_is_resumed(tmp_path):
    def model():
        net = body()
        made = KerasModel(net, "mse", optimizer="adam")
        net.append(head())
        return made

    straight, cut = model(), model()
    with pytest.warns(UserWarning, match="2 new parameters"):
        fit(straight, epochs=4)
    with pytest.warns(UserWarning, match="2 new parameters"):
        fit(cut, ckpt_path=tmp_path)
    resumed = model()
    with pytest.warns(UserWarning, match="2 new parameters"):
        fit(resumed, epochs=4, ckpt_path=tmp_path, resume=True)
    for first, second in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)
