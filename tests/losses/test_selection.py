import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import seeds
from fitorch.losses import L1, L2, no_decay_groups


def penalized(net, **arguments):
    """The names of the parameters that a penalty finds."""
    chosen = {id(parameter) for parameter in L2(**arguments).choose(net)}
    return [name for name, parameter in net.named_parameters() if id(parameter) in chosen]


def decayed(net):
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = no_decay_groups(net, 0.1)
    return [[names[id(parameter)] for parameter in group["params"]] for group in groups]


class LlamaRMSNorm(nn.Module):
    """As in transformers."""

    def __init__(self, hidden_size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class LayerNorm2d(LlamaRMSNorm):
    """As in timm."""


class Net(nn.Module):
    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Biased(nn.Module):
    """Parameters of its own, of names that say what they are."""

    def __init__(self):
        super().__init__()
        for name in ("weight", "bias", "bias1", "q_bias", "bias_table", "biases", "unbiased"):
            self.register_parameter(name, nn.Parameter(torch.ones(2)))


# What is a weight


@pytest.mark.parametrize(
    ("net", "weights"),
    [
        (nn.Linear(2, 3), ["weight"]),
        (nn.Conv2d(2, 3, 1), ["weight"]),
        (nn.Bilinear(2, 2, 2), ["weight"]),
        (nn.Embedding(4, 2), ["weight"]),
        (nn.LSTM(2, 3), ["weight_ih_l0", "weight_hh_l0"]),
        (
            nn.GRU(2, 3, num_layers=2, bidirectional=True),
            [f"weight_{k}h_l{n}{r}" for n in (0, 1) for r in ("", "_reverse") for k in "ih"],
        ),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (
            nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3, vdim=3),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
        (
            nn.TransformerEncoderLayer(4, 2, 8),
            [
                "self_attn.in_proj_weight",
                "self_attn.out_proj.weight",
                "linear1.weight",
                "linear2.weight",
            ],
        ),
        (Biased(), ["weight", "unbiased"]),
        (Net(bias_net=nn.Linear(2, 2), norm=nn.Linear(2, 2)), ["bias_net.weight", "norm.weight"]),
        (nn.ParameterDict({"weight": torch.ones(2), "bias": torch.ones(2)}), ["weight"]),
        (
            Net(
                biases=nn.ParameterList([torch.ones(2)]), scales=nn.ParameterList([torch.ones(2)])
            ),
            ["scales.0"],
        ),
    ],
)  # fmt: skip
def test_weights_are_penalized_and_biases_are_not(net, weights):
    assert penalized(net) == weights
    assert decayed(net)[0] == weights


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.SyncBatchNorm(3),
        nn.LayerNorm(3),
        nn.GroupNorm(1, 3),
        nn.InstanceNorm2d(3, affine=True),
        nn.RMSNorm(3),
        LlamaRMSNorm(3),
        LayerNorm2d(3),
    ],
)
def test_normalization_is_left_out_by_its_type(norm):
    assert penalized(Net(first=norm, last=nn.Linear(3, 1))) == ["last.weight"]
    assert decayed(Net(first=norm))[0] == []


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (parametrizations.weight_norm, ["parametrizations.weight.original0", "....original1"]),
        (parametrizations.spectral_norm, ["parametrizations.weight.original"]),
        (parametrizations.orthogonal, ["parametrizations.weight.original"]),
        (lambda m: parametrizations.spectral_norm(m, "bias"), ["weight"]),
    ],
)
def test_parametrized_weights_are_weights_and_biases_are_biases(make, weights):
    weights = [name.replace("...", "parametrizations.weight", 1) for name in weights]
    assert penalized(make(nn.Linear(3, 3))) == weights


def test_a_net_that_is_parametrized_can_be_penalized():
    net = parametrizations.weight_norm(nn.Linear(3, 2))
    originals = net.parametrizations.weight
    value = L2()(net)
    expected = 0.5 * (originals.original0.square().sum() + originals.original1.square().sum())
    torch.testing.assert_close(value, expected)


# What is chosen


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.encoder2 = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


ALL = [name for name, _ in Model().named_parameters()]
ENCODER = ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"]


@pytest.mark.parametrize(
    ("include", "chosen"),
    [
        (None, ["encoder.0.weight", "encoder2.weight", "head.weight"]),
        ("*", ALL),
        ("head.weight", ["head.weight"]),
        ("head", ["head.weight", "head.bias"]),
        ("encoder", ENCODER),
        ("encoder.*", ENCODER),
        ("encoder*.weight", ["encoder.0.weight", "encoder.1.weight", "encoder2.weight"]),
        ("*.bias", ["encoder.0.bias", "encoder.1.bias", "encoder2.bias", "head.bias"]),
        (["head.bias", "encoder.0"], ["encoder.0.weight", "encoder.0.bias", "head.bias"]),
        (("head",), ["head.weight", "head.bias"]),
        (lambda name, p: p.dim() == 2, ["encoder.0.weight", "encoder2.weight", "head.weight"]),
        (lambda name, p: name.startswith("head"), ["head.weight", "head.bias"]),
        ("nothing", []),
        ([], []),
    ],
)
def test_parameters_are_included_by_name_pattern_list_or_predicate(include, chosen):
    assert penalized(Model(), include=include) == chosen


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ({"exclude": "head"}, ["encoder.0.weight", "encoder2.weight"]),
        ({"exclude": ["encoder*"]}, ["head.weight"]),
        ({"exclude": lambda name, p: p.shape == (1, 2)}, ["encoder.0.weight", "encoder2.weight"]),
        ({"include": "*", "exclude": "*bias"}, [name for name in ALL if "bias" not in name]),
        ({"include": "head", "exclude": "head.bias"}, ["head.weight"]),
        ({"exclude": "*"}, []),
    ],
)
def test_what_is_excluded_is_left_out(arguments, chosen):
    assert penalized(Model(), **arguments) == chosen


@pytest.mark.parametrize("wrong", [3, [3], {"head"}])
@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_what_is_no_pattern_is_refused(wrong, argument):
    message = f"{argument} is .*; expected a pattern such as 'encoder.\\*', a list of them, or"
    with pytest.raises(TypeError, match=message):
        L1(**{argument: wrong})(Model())


def test_names_are_those_of_the_net_before_it_was_compiled():
    net = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.Linear(2, 1))
    assert len(L2(include="0.weight").choose(net)) == 1
    assert len(L2(exclude="0").choose(torch.compile(net, backend="eager"))) == 1


def test_frozen_parameters_are_never_chosen():
    net = Model()
    net.encoder.requires_grad_(False)
    assert penalized(net, include="*") == ALL[4:]


def test_shared_parameters_are_chosen_once():
    net = Net(a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    net.b.weight = net.a.weight
    assert len(L2().choose(net)) == 1
    assert [len(group["params"]) for group in no_decay_groups(net, 0.1)] == [1, 2]


# Parameter groups


def test_the_groups_of_a_plain_net_are_the_seeds():
    model = seeds.Net()
    weight_params = [param for name, param in model.named_parameters() if "bias" not in name]
    bias_params = [param for name, param in model.named_parameters() if "bias" in name]
    decay, rest = no_decay_groups(model, 1e-5)
    assert list(map(id, decay["params"])) == list(map(id, weight_params))
    assert list(map(id, rest["params"])) == list(map(id, bias_params))
    assert (decay["weight_decay"], rest["weight_decay"]) == (1e-5, 0)


@pytest.mark.parametrize(
    "net",
    [
        Model(),
        nn.LSTM(2, 2),
        nn.TransformerDecoderLayer(4, 2, 8),
        nn.LayerNorm(2),
        Biased(),
        nn.ReLU(),
    ],
)
def test_every_parameter_is_in_one_group(net):
    for parameter in list(net.parameters())[::3]:
        parameter.requires_grad_(False)  # which may thaw
    grouped = [id(p) for group in no_decay_groups(net, 0.1) for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, net.parameters()))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_decay_on_the_groups_is_the_l2_penalty(momentum):
    torch.manual_seed(0)
    x, y = torch.randn(64, 2), torch.randn(64, 1)
    by_groups, by_penalty = seeds.Net(), seeds.Net()
    by_penalty.load_state_dict(by_groups.state_dict())
    first = torch.optim.SGD(no_decay_groups(by_groups, 0.1), lr=0.05, momentum=momentum)
    second = torch.optim.SGD(by_penalty.parameters(), lr=0.05, momentum=momentum)
    for _ in range(50):
        for net, optimizer in ((by_groups, first), (by_penalty, second)):
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), y)
            (loss + L2(0.1)(net) if net is by_penalty else loss).backward()
            optimizer.step()
    torch.testing.assert_close(
        by_groups.state_dict(), by_penalty.state_dict(), rtol=1e-6, atol=1e-6
    )


def test_an_optimizer_takes_groups_of_which_one_is_empty():
    net = nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.AdamW(no_decay_groups(net, 0.1))
    before = copy.deepcopy(net.weight)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(net.weight, before)


@pytest.mark.parametrize("wrong", [-0.1, float("nan")])
def test_a_negative_decay_is_refused(wrong):
    with pytest.raises(ValueError, match=f"weight_decay must be 0 or more, got {wrong}"):
        no_decay_groups(nn.Linear(1, 1), wrong)
