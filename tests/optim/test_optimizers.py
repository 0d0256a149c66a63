import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fitorch import KerasModel
from fitorch.internals.torch import bare_step
from fitorch.optim.optimizers import OPTIMIZERS, make_optimizer
from fitorch.optim.schedulers import make_scheduler


def net():
    return nn.Linear(2, 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_gives_torchs_optimizer_with_its_defaults(name):
    kind = OPTIMIZERS[name]
    assert kind.__name__.lower() == name
    made = make_optimizer(name, net())
    plain = kind(net().parameters())
    assert type(made) is kind
    assert {**made.defaults, "fused": None} == {**plain.defaults, "fused": None}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"lbfgs", "sparseadam"}))
def test_every_named_optimizer_trains(name):
    x = torch.randn(16, 2)
    model = KerasModel(net(), "mse", optimizer=name)
    before = model.net.weight.detach().clone()
    model.fit((x, x[:, :1]), epochs=1, verbose=0)
    assert not torch.equal(model.net.weight, before)


def test_none_is_adam():
    made = make_optimizer(None, net())
    assert type(made) is optim.Adam
    assert made.defaults["lr"] == 3e-4


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", None])
def test_the_fused_variant_is_built_where_there_is_one(name):
    assert make_optimizer(name, net()).defaults["fused"] is True


def test_sparse_gradients_get_the_plain_variant():
    embedding = nn.Embedding(10, 2, sparse=True)
    assert not make_optimizer("sgd", embedding).defaults["fused"]


def test_an_instance_is_left_as_it_is():
    module = net()
    made = optim.Adam(module.parameters(), lr=0.1)
    assert make_optimizer(made, module) is made
    assert made.defaults["fused"] is None


def test_a_factory_gets_all_parameters():
    module, extra = net(), nn.Parameter(torch.zeros(1))
    made = make_optimizer(lambda p: optim.SGD(p, lr=0.5, momentum=0.9), module, [extra])
    held = made.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in (*module.parameters(), extra)]
    assert made.defaults["momentum"] == 0.9


def test_a_class_is_a_factory():
    assert type(make_optimizer(optim.AdamW, net())) is optim.AdamW


def test_an_unknown_name_lists_the_closest_and_all():
    with pytest.raises(ValueError, match=r"'adamww' \(did you mean 'adamw'\?\).*sgd"):
        make_optimizer("adamww", net())
    with pytest.raises(ValueError, match=r"'moun' \(did you mean 'muon'\?\)"):
        make_optimizer("moun", net())


def test_names_are_taken_in_any_case():
    assert type(make_optimizer("AdamW", net())) is optim.AdamW


@pytest.mark.parametrize("wrong", [0.1, ["adam"], lambda p: None])
def test_what_is_no_optimizer_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer, several"):
        make_optimizer(wrong, net())


def test_an_optimizer_of_another_net_is_refused():
    other = optim.SGD(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="2 of the 2 parameters of SGD are not the net's") as info:
        KerasModel(net(), "mse", optimizer=other)
    assert "weight, bias" in str(info.value)


def test_an_optimizer_of_some_parameters_is_fine():
    module = nn.Sequential(net(), nn.Linear(1, 1))
    model = KerasModel(module, "mse", optimizer=optim.SGD(module[1].parameters(), lr=0.1))
    before = module[0].weight.detach().clone()
    model.fit((torch.randn(8, 2), torch.randn(8, 1)), epochs=1, verbose=0)
    assert torch.equal(module[0].weight, before)


def test_a_scheduler_comes_as_instance_or_factory():
    optimizer = make_optimizer("sgd", net())
    schedule = lr_scheduler.StepLR(optimizer, 1)
    assert make_scheduler(schedule, optimizer) is schedule
    made = make_scheduler(lambda o: lr_scheduler.StepLR(o, 3), optimizer)
    assert made.optimizer is optimizer
    assert made.step_size == 3
    assert make_scheduler(lr_scheduler.ReduceLROnPlateau, optimizer).optimizer is optimizer
    assert make_scheduler(None, optimizer) is None


def test_a_scheduler_of_another_optimizer_is_refused():
    module = net()
    schedule = lr_scheduler.StepLR(optim.SGD(module.parameters(), lr=0.1), 1)
    with pytest.raises(ValueError, match="StepLR was built for a different optimizer"):
        KerasModel(module, "mse", lr_scheduler=schedule)


@pytest.mark.parametrize("wrong", ["cosine", 0.1, lambda o: None])
def test_what_is_no_scheduler_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected a scheduler of torch\.optim\.lr_scheduler"):
        make_scheduler(wrong, make_optimizer("sgd", net()))


BARE = {
    "adam": lambda p: optim.Adam(p, 1e-2),
    "fused adamw": lambda p: optim.AdamW(p, 1e-2, fused=True),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: optim.RMSprop(p, 1e-2),
    "adagrad": lambda p: optim.Adagrad(p, 1e-2),
    "radam": lambda p: optim.RAdam(p, 1e-2),
}


@pytest.mark.parametrize("make", BARE.values(), ids=BARE)
def test_a_bare_step_changes_weights_as_the_optimizers_own(make):
    nets = []
    for bare in (True, False):
        torch.manual_seed(0)
        net = nn.Linear(5, 3)
        optimizer = make(net.parameters())
        step = bare_step(optimizer) if bare else optimizer.step
        assert (step == optimizer.step) is not bare
        for _ in range(5):
            net(torch.randn(4, 5)).square().sum().backward()
            step()
            assert not any(p.grad_fn for p in net.parameters())
        nets.append(net)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", ["pre", "post", "global pre", "global post"])
def test_a_bare_step_calls_hooks_whenever_they_were_registered(kind):
    optimizer = optim.SGD(nn.Linear(2, 1).parameters(), 0.1)
    step, called = bare_step(optimizer), []
    step()
    register = {
        "pre": optimizer.register_step_pre_hook,
        "post": optimizer.register_step_post_hook,
        "global pre": register_optimizer_step_pre_hook,
        "global post": register_optimizer_step_post_hook,
    }[kind]
    handle = register(lambda *_: called.append(kind))
    step()
    handle.remove()
    step()
    assert called == [kind]


def test_a_bare_step_is_seen_by_a_profiler():
    optimizer = optim.SGD(nn.Linear(2, 1).parameters(), 0.1)
    step = bare_step(optimizer)
    with torch.profiler.profile() as profile:
        step()
    assert any(event.key == "Optimizer.step#SGD.step" for event in profile.key_averages())


class Own(optim.SGD):
    """An optimizer of somebody's own."""

    def step(self, closure=None):
        return super().step(closure)


def test_steps_of_ones_own_are_left_alone():
    for optimizer in (
        Own(nn.Linear(2, 1).parameters(), 0.1),
        optim.Adam(nn.Linear(2, 1).parameters(), 0.1, differentiable=True),
    ):
        assert bare_step(optimizer) == optimizer.step
    optimizer = optim.SGD(nn.Linear(2, 1).parameters(), 0.1)
    optimizer.step = lambda: None
    assert bare_step(optimizer) is optimizer.step


@pytest.mark.filterwarnings("error")
def test_a_schedule_is_content_with_bare_steps():
    optimizer = optim.SGD(nn.Linear(2, 1).parameters(), 0.1)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1)
    step = bare_step(optimizer)
    assert step != optimizer.step
    step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
