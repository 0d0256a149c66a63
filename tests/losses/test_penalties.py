import copy
import io
import pickle
import subprocess
import sys
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import seeds
from fitorch.losses import L1, L1L2, L2, Objective, Penalty, term
from versions import since_torch


def seeds_both(model, beta, alpha):
    return seeds.l1_loss(model, beta) + seeds.l2_loss(model, alpha)


def tower(layers, width=3):
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


PAIRS = [
    (L2(1e-3), lambda net: seeds.l2_loss(net, 1e-3)),
    (L1(1e-3), lambda net: seeds.l1_loss(net, 1e-3)),
    (L1L2(0.1, 0.3), lambda net: seeds_both(net, 0.1, 0.3)),
    (L1L2(0.1, 0.0), lambda net: seeds.l1_loss(net, 0.1)),
    (L1L2(0.0, 0.3), lambda net: seeds.l2_loss(net, 0.3)),
    (L2(-0.5), lambda net: seeds.l2_loss(net, -0.5)),
    (L2(0.0), lambda net: seeds.l2_loss(net, 0.0)),
    (L1(0.0), lambda net: seeds.l1_loss(net, 0.0)),
]
EVERY = pytest.mark.parametrize(("penalty", "by_hand"), PAIRS)


def gradients(value, net):
    return torch.autograd.grad(
        value, list(net.parameters()), allow_unused=True, materialize_grads=True
    )


# Value and gradient


@EVERY
@pytest.mark.parametrize("net", [seeds.Net(), tower(20)])
def test_value_and_gradient_are_those_of_the_seeds_loop(penalty, by_hand, net):
    value = penalty(net)
    torch.testing.assert_close(value, by_hand(net))
    with torch.no_grad():
        assert torch.equal(penalty(net), value)
    torch.testing.assert_close(gradients(3 * value, net), gradients(3 * by_hand(net), net))


@EVERY
def test_the_gradient_added_in_place_is_that_of_the_seeds_loop(penalty, by_hand):
    net = seeds.Net()
    F.mse_loss(net(torch.ones(5, 2)), torch.zeros(5, 1)).backward()
    before = [p.grad.clone() for p in net.parameters()]
    objective = Objective(term("mse") + 0.5 * (-2 * penalty))
    objective.bind(net)
    objective.penalties[0].add_gradients()
    expected = [b - g for b, g in zip(before, gradients(by_hand(net), net), strict=True)]
    torch.testing.assert_close([p.grad for p in net.parameters()], expected)


def test_l2_is_half_the_sum_of_squares():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, -4.0]]))
        net.bias.fill_(100.0)
    assert L2()(net) == 12.5
    assert L1()(net) == 7.0
    assert L1L2()(net) == 19.5
    assert L1L2(l1=2.0, l2=0.1)(net).item() == pytest.approx(14 + 1.25)
    assert torch.autograd.grad(L2(0.1)(net), net.weight)[0].tolist() == [pytest.approx([0.3, -0.4])]


@pytest.mark.parametrize("penalty", [L1(0.7), L2(0.7), L1L2(0.7, 0.3), L1L2(0.0, 0.0)])
def test_gradients_pass_gradcheck(penalty):
    first = nn.Parameter(torch.tensor([[0.5, -1.2], [2.0, 0.3]], dtype=torch.float64))
    second = nn.Parameter(torch.tensor([-0.4, 0.9], dtype=torch.float64))

    def value(*weights):
        return penalty.value(list(weights))

    assert torch.autograd.gradcheck(value, (first, second))
    assert torch.autograd.gradgradcheck(value, (first, second))


@EVERY
def test_weights_of_zero_have_finite_gradients(penalty, by_hand):
    net = nn.Linear(3, 2)
    nn.init.zeros_(net.weight)
    value = penalty(net)
    assert value == 0
    assert torch.equal(gradients(value, net)[0], torch.zeros(2, 3))


def test_a_loop_by_hand_with_penalties_is_one_with_the_seeds():
    torch.manual_seed(0)
    x, y = torch.randn(32, 2), torch.randn(32, 1)
    nets = [seeds.Net(), seeds.Net()]
    nets[1].load_state_dict(nets[0].state_dict())
    terms = (
        lambda net: L2(1e-2)(net) + L1(1e-3)(net),
        lambda net: seeds.l2_loss(net, 1e-2) + seeds.l1_loss(net, 1e-3),
    )
    for net, penalties in zip(nets, terms, strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            (F.mse_loss(net(x), y) + penalties(net)).backward()
            optimizer.step()
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict())


# Types and devices of parameters


class Weights(nn.Module):
    def __init__(self, *tensors):
        super().__init__()
        for number, tensor in enumerate(tensors):
            self.register_parameter(f"w{number}", nn.Parameter(tensor))


def by_hand(net, l1=0.1, l2=0.3):
    """The penalty parameter by parameter, summed up in 64 bits."""
    total = torch.zeros((), dtype=torch.float64)
    for parameter in net.parameters():
        size = parameter.to(torch.complex128).abs()
        total = total + l1 * size.sum() + 0.5 * l2 * size.square().sum()
    return total


TYPES = [
    (torch.float64,),
    (torch.bfloat16,),
    (torch.float16,),
    (torch.float32, torch.float64),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.float16, torch.float64),
    (torch.complex64,),
    (torch.complex128, torch.float64),
    (torch.complex64, torch.float32),
]


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_parameters_may_have_any_types(types):
    torch.manual_seed(0)
    net = Weights(*(torch.randn(4, 3, dtype=dtype) for dtype in types), torch.randn(0, 3))
    halves = any(dtype.itemsize == 2 for dtype in types)
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if halves else {"rtol": 1e-5, "atol": 1e-6}
    value = L1L2(0.1, 0.3)(net)
    torch.testing.assert_close(value.double(), by_hand(net), rtol=1e-5, atol=0)
    expected = gradients(by_hand(net), net)
    torch.testing.assert_close(gradients(value, net), expected, **tolerance)
    objective = Objective(term("mse") + L1L2(0.1, 0.3))
    objective.bind(net)
    objective.penalties[0].add_gradients()
    torch.testing.assert_close([p.grad for p in net.parameters()], list(expected), **tolerance)
    assert all(p.grad.dtype == p.dtype for p in net.parameters())


def test_halves_are_summed_without_loss():
    net = Weights(torch.full((100, 100), 0.1, dtype=torch.bfloat16))
    entry = net.w0[0, 0].item()
    assert L1()(net).item() == pytest.approx(1e4 * entry, rel=1e-4)
    assert L2()(net).item() == pytest.approx(5e3 * entry**2, rel=1e-4)
    assert L2()(net).dtype == torch.float32


def test_large_tensors_are_summed_without_loss():
    net = Weights(torch.randn(2000, 1500), torch.randn(1500, 2000).T)
    exact = [p.detach().double() for p in net.parameters()]
    assert L1()(net).item() == pytest.approx(sum(p.abs().sum().item() for p in exact), rel=2e-6)
    squares = sum(p.square().sum().item() for p in exact)
    assert L2()(net).item() == pytest.approx(0.5 * squares, rel=2e-6)


def test_64_bits_stay_64_bits():
    net = nn.Linear(3, 2).double()
    assert L1L2()(net).dtype == torch.float64
    torch.testing.assert_close(L2()(net), 0.5 * net.weight.square().sum(), rtol=1e-12, atol=0)


def test_sparse_and_missing_gradients_are_added_to():
    embedding, unused = nn.Embedding(5, 2, sparse=True), nn.Linear(2, 2)
    embedding(torch.tensor([0, 3])).sum().backward()
    assert embedding.weight.grad.is_sparse
    objective = Objective(term("mse") + L2(0.1))
    objective.bind(nn.ModuleList([embedding, unused]))
    objective.penalties[0].add_gradients()
    looked_up = torch.zeros(5, 2)
    looked_up[[0, 3]] = 1.0
    torch.testing.assert_close(embedding.weight.grad, looked_up + 0.1 * embedding.weight)
    torch.testing.assert_close(unused.weight.grad, 0.1 * unused.weight)
    assert unused.bias.grad is None


def test_what_is_frozen_in_the_meantime_gets_no_gradient():
    net = tower(2)
    objective = Objective(term("mse") + L2())
    objective.bind(net)
    net[0].weight.requires_grad_(False)
    objective.penalties[0].add_gradients()
    assert net[0].weight.grad is None
    torch.testing.assert_close(net[1].weight.grad, net[1].weight.detach())
    net.requires_grad_(False)
    objective.penalties[0].add_gradients()


# Penalties of one's own


class Cubes(Penalty):
    def value(self, weights):
        return sum(weight.abs().pow(3).sum() for weight in weights)


def test_a_penalty_of_ones_own_adds_its_gradient_by_autograd():
    net = tower(2)
    objective = Objective(term("mse") + 0.5 * Cubes(include="0"))
    objective.bind(net)
    with torch.no_grad():
        objective.penalties[0].add_gradients()
    for parameter in net[0].parameters():
        torch.testing.assert_close(parameter.grad, 1.5 * parameter.square() * parameter.sign())
    assert net[1].weight.grad is None


def test_a_penalty_of_ones_own_may_look_at_some_parameters_only():
    class First(Penalty):
        def value(self, weights):
            return weights[0].sum()

    net = tower(2)
    objective = Objective(term("mse") + First())
    objective.bind(net)
    objective.penalties[0].add_gradients()
    assert torch.equal(net[0].weight.grad, torch.ones(3, 3))
    assert torch.equal(net[1].weight.grad, torch.zeros(3, 3))


# Cost


class Counting(TorchDispatchMode):
    """Counts the operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.operations = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def dispatched(penalty, layers, way):
    net = tower(layers)
    weights = [layer.weight for layer in net]
    objective = Objective(term("mse") + penalty)
    objective.bind(net)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    with Counting() as counting:
        if way == "autograd":
            torch.autograd.grad(penalty.value(weights), weights)
        else:
            objective.penalties[0].add_gradients()
    counting.operations.pop("detach", None)  # a view: it launches nothing
    return counting.operations


@pytest.mark.parametrize("way", ["autograd", "in place"])
@pytest.mark.parametrize("penalty", [L1(0.1), L2(0.1), L1L2(0.1, 0.2)])
def test_operations_do_not_grow_with_the_number_of_tensors(penalty, way):
    few, many = dispatched(penalty, 10, way), dispatched(penalty, 200, way)
    assert few == many
    assert few.total() <= (20 if way == "autograd" else 3)


# Shared, frozen, nothing


def test_a_shared_parameter_counts_once():
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    net[1].weight = net[0].weight
    value = L2()(net)
    torch.testing.assert_close(value, 0.5 * net[0].weight.square().sum())
    torch.testing.assert_close(gradients(value, net)[0], net[0].weight.detach())


def test_frozen_parameters_are_left_out():
    net = tower(3)
    net[1].requires_grad_(False)
    torch.testing.assert_close(L1()(net), net[0].weight.abs().sum() + net[2].weight.abs().sum())


def test_nothing_to_penalize_names_what_there_is():
    net = nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="finds") as info:
        L2(0.1)(net)
    assert str(info.value) == (
        "L2(0.1) finds no parameter to penalize in Sequential, whose trainable parameters are "
        "0.weight, 0.bias, 1.weight, 1.bias; biases and normalization are left out unless "
        "include= matches their names, as include='*' does"
    )
    with pytest.raises(ValueError, match=r"are 0.weight, .*, 2.bias, \.\.\.; biases"):
        L1(include="decoder.*")(tower(9))
    with pytest.raises(ValueError, match="whose trainable parameters are none; biases"):
        L1()(tower(2).requires_grad_(False))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_is_refused(wrong):
    for make in (L1, L2, lambda f: L1L2(l1=f), lambda f: L1L2(l2=f)):
        with pytest.raises(ValueError, match=f"the factor of an L[12] penalty is {wrong}; expect"):
            make(wrong)


@pytest.mark.parametrize(
    ("penalty", "text"),
    [
        (L1(), "L1()"),
        (L2(1e-3), "L2(0.001)"),
        (L1L2(1e-4, 1), "L1L2(l1=0.0001, l2=1)"),
        (L2(1, include="a.*"), "L2(include='a.*')"),
        (L1(0.5, include=["a", "b"], exclude="c"), "L1(0.5, include=['a', 'b'], exclude='c')"),
        (L2(include=lambda name, p: True), "L2(include=<lambda>)"),
    ],
)
def test_a_penalty_reads_like_its_arguments(penalty, text):
    assert repr(penalty) == text


def test_a_penalty_can_be_copied_pickled_and_saved():
    net, penalty = tower(2), L1L2(0.1, 0.2, exclude="0.*")
    for same in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        assert torch.equal(same(net), penalty(net))
    torch.save(penalty, io.BytesIO())


# In company


@since_torch("2.13")
# torch's own, as it traces a Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_step_has_the_same_value_and_gradient():
    net, x, y = tower(3), torch.randn(4, 3), torch.randn(4, 3)

    def objective(x, y):
        return F.mse_loss(net(x), y) + L1L2(0.1, 0.2)(net) - L1(0.3)(net)

    compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
    value, expected = compiled(x, y), objective(x, y)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, net), gradients(expected, net))
    torch.compiler.reset()


DISTRIBUTED = """
import sys
import torch, torch.distributed as dist, torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from fitorch.losses import L1L2

rank = int(sys.argv[1])
torch.set_num_threads(1)
store = dist.FileStore(sys.argv[2], 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
x, y = torch.randn(8, 3), torch.randn(8, 2)
parallel, part = DistributedDataParallel(net), slice(4 * rank, 4 * rank + 4)
for penalized in (net, parallel):
    net.zero_grad()
    (F.mse_loss(parallel(x[part]), y[part]) + L1L2(0.1, 0.2)(penalized)).backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    (F.mse_loss(net(x), y) + L1L2(0.1, 0.2)(net)).backward()
    torch.testing.assert_close(found, [p.grad for p in net.parameters()])
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
