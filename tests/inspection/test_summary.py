"""The tables of layers; truth is torch itself, and counts by hand."""

import dataclasses
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fitorch import ShapeError, flop_summary
from inspection.tables import Circle, Returns, cells, count, quiet


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Embedding(7, 4)

    def forward(self, x, code):
        return self.a(x) + self.b(code)


def test_torchkeras_net_has_torchkeras_figures():
    table = quiet(Circle(), torch.randn(100, 2))
    assert [(row.label, row.cells[0][0], row.cells[1][0]) for row in table.rows] == [
        ("Circle", "[-1, 1]", ""),
        ("fc1 (Linear)", "[-1, 4]", "12"),
        ("fc2 (Linear)", "[-1, 8]", "40"),
        ("fc3 (Linear)", "[-1, 1]", "9"),
    ]
    assert (table.total_params, table.trainable_params, table.buffers) == (61, 61, 0)
    assert table.param_bytes == 61 * 4
    assert table.input_bytes == 100 * 2 * 4
    assert table.pass_bytes == 2 * 100 * (4 + 8 + 1) * 4


def test_the_table_looks_so():
    assert str(quiet(Circle(), torch.randn(100, 2))) == "\n".join(
        [
            "─────────────────────────────────────────────────────",
            "Layer (type)     Output Shape  Param #",
            "─────────────────────────────────────────────────────",
            "Circle           [-1, 1]",
            "├─ fc1 (Linear)  [-1, 4]            12",
            "├─ fc2 (Linear)  [-1, 8]            40",
            "└─ fc3 (Linear)  [-1, 1]             9",
            "─────────────────────────────────────────────────────",
            "Total params          61",
            "Trainable params      61",
            "Non-trainable params   0",
            "Buffers                0",
            "─────────────────────────────────────────────────────",
            "Memory in MB           of a sample  of a batch of 100",
            "Input                   0.00000763           0.000763",
            "Forward/backward pass    0.0000992            0.00992",
            "Params                    0.000233           0.000233",
            "Estimated total           0.000340             0.0109",
            "─────────────────────────────────────────────────────",
        ]
    )


def test_the_rows_add_up_to_the_total():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.body(x * self.scale).mean((2, 3)))

    net = Net()
    table = quiet(net, input_shape=(3, 16, 16))
    counted = [int(row.cells[1][0].replace(",", "")) for row in table.rows if row.cells[1][0]]
    assert sum(counted) == table.total_params == count(net) == 3 + 8 * 28 + 16 + 45
    assert table.buffers == 8 + 8 + 1
    assert table.buffer_bytes == 8 * 4 + 8 * 4 + 8
    assert cells(table, "Net") == (["[-1, 5]"], "3", "")
    assert cells(table, "0") == (["[-1, 8, 14, 14]"], "224", "")


def test_a_layer_in_two_places_is_counted_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    table = quiet(Net(), torch.randn(3, 4))
    assert table.total_params == 20
    assert cells(table, "b") == (["[-1, 4]"], "-", "shared: same as a")
    assert cells(table, "0")[2] == "called 2 times"
    assert table.pass_bytes == 2 * 4 * (3 * 4 * 4)


def test_a_layer_that_is_called_several_times_has_one_row_that_says_so():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(3, 5)

        def forward(self, x):
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state

    table = quiet(Net(), torch.randn(4, 6, 3))
    assert cells(table, "cell") == (["[-1, 5]"], "150", "called 6 times")
    assert table.total_params == count(nn.GRUCell(3, 5)) == 150


def test_tied_weights_are_counted_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.decode = nn.Linear(4, 10)
            self.decode.weight = self.embed.weight

        def forward(self, x):
            return self.decode(self.embed(x))

    table = quiet(Net(), torch.zeros(2, 3, dtype=torch.long))
    assert table.total_params == 40 + 10
    assert cells(table, "embed") == (["[-1, 3, 4]"], "40", "")
    assert cells(table, "decode") == (["[-1, 3, 10]"], "10", "weight tied to embed.weight")


def test_frozen_parameters_are_marked():
    net = Circle()
    net.fc1.requires_grad_(False)
    net.fc2.bias.requires_grad_(False)
    table = quiet(net, torch.randn(5, 2))
    assert [row.note for row in table.rows] == ["", "frozen", "partly frozen", ""]
    assert table.trainable_params == 61 - 12 - 8
    assert "Non-trainable params  20" in str(table)


def test_layers_that_are_never_called_come_last_without_a_shape():
    net = Circle()
    net.aux = nn.Linear(5, 5)
    assert cells(quiet(net, torch.randn(5, 2)), "aux") == ([""], "30", "")


def test_layers_come_in_the_order_of_their_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 1), nn.Linear(2, 4)

        def forward(self, x):
            return self.last(self.first(x))

    names = [row.name for row in quiet(Net(), torch.randn(5, 2)).rows]
    assert names == ["Net", "first", "last"]


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_deep_layers_are_folded_into_those_above(levels):
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), nn.Linear(4, 1))
    table = quiet(net, torch.randn(5, 2), depth=levels)
    assert [row.cells[1][0] for row in table.rows] == [
        ["30"],
        ["", "25", "5"],
        ["", "", "9", "16", "5"],
    ][levels]
    assert table.total_params == 30


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda y: {"logits": y, "norm": y.norm(dim=1)}, ["logits: [-1, 2]", "norm: [-1]"]),
        (lambda y: (y, (y, y.sum())), ["[-1, 2]", "[-1, 2]", "[]"]),
        (lambda y: [y] * 5, ["[-1, 2]", "[-1, 2]", "+ 3 more"]),
        (namedtuple("Pair", "mean std")._make, None),
        (lambda y: None, ["-"]),
        (lambda y: y.mean(), ["[]"]),
    ],
)
def test_every_kind_of_output_has_its_shapes(make, shapes):
    if shapes is None:
        pair = make
        make, shapes = lambda y: pair((y, y[:, :1])), ["mean: [-1, 2]", "std: [-1, 1]"]
    assert cells(quiet(Returns(make), torch.randn(4, 3)), "Returns")[0] == shapes


def test_a_dataclass_is_an_output_too():
    @dataclasses.dataclass
    class Output:
        mean: torch.Tensor
        note: str = "no tensor"

    assert cells(quiet(Returns(Output), torch.randn(4, 3)), "Returns")[0] == ["mean: [-1, 2]"]


@pytest.mark.parametrize(
    "features",
    [
        (torch.randn(6, 3), torch.randint(7, (6,))),
        [np.random.default_rng(0).normal(size=(6, 3)), np.arange(6)],
        {"x": torch.randn(6, 3), "code": torch.randint(7, (6,))},
    ],
    ids=["tuple", "arrays", "dict"],
)
def test_several_inputs_are_given_as_a_tuple_or_by_name(features):
    table = quiet(TwoInputs(), features)
    assert cells(table, "TwoInputs")[0] == ["[-1, 4]"]
    assert table.total_params == 16 + 28


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ([(3,), ()], [None, torch.long]),
        ({"x": (3,), "code": ()}, {"code": torch.LongTensor}),
    ],
)
def test_several_shapes_are_given_as_a_list_or_by_name(shape, dtype):
    table = quiet(TwoInputs(), input_shape=shape, input_dtype=dtype)
    assert cells(table, "TwoInputs")[0] == ["[-1, 4]"]


@pytest.mark.parametrize("dtype", [torch.long, torch.LongTensor, "int64", np.int64, torch.int32])
def test_an_embedding_takes_whole_numbers(dtype):
    net = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 1))
    table = quiet(net, input_shape=(4,), input_dtype=dtype)
    assert table.total_params == 45 + 21
    assert cells(table, "0")[0] == ["[-1, 4, 5]"]


def test_torchkeras_call_forms():
    shapes = [row.cells[0] for row in quiet(Circle(), torch.randn(4, 2)).rows]
    for table in (
        quiet(Circle(), input_data=torch.randn(4, 2)),
        quiet(Circle(), features=torch.randn(4, 2)),
        quiet(Circle(), input_data_args=(torch.randn(4, 2),)),
        quiet(Circle(), input_shape=(2,)),
        quiet(Circle(), input_shape=(2,), input_dtype=torch.FloatTensor, batch_size=-1),
        quiet(Circle(), input_shape=torch.Size([2])),
    ):
        assert [row.cells[0] for row in table.rows] == shapes


def test_a_batch_size_stands_in_the_shapes_and_counts_in_the_memory():
    table = quiet(Circle(), input_shape=(2,), batch_size=64)
    assert cells(table, "fc1")[0] == ["[64, 4]"]
    assert table.input_bytes == 64 * 2 * 4


class Samples(Dataset):
    def __init__(self):
        self.x, self.y = torch.randn(20, 2), torch.zeros(20, 1)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.x[index], self.y[index]


@pytest.mark.parametrize(
    ("features", "samples"),
    [
        (torch.randn(7, 2), 7),
        (np.zeros((7, 2)), 7),
        (pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1, 2, 3]}), 3),
        (DataLoader(TensorDataset(torch.randn(20, 2), torch.zeros(20)), batch_size=5), 5),
        (DataLoader(Samples(), batch_size=6, shuffle=True), 6),
        (Samples(), 20),
        (TensorDataset(torch.randn(8, 2)), 8),
    ],
    ids=["tensor", "array", "frame", "loader", "own loader", "dataset", "no targets"],
)
def test_features_come_in_every_form(features, samples):
    table = quiet(Circle(), features)
    assert table.input_bytes == samples * 2 * 4
    assert cells(table, "fc3")[0] == ["[-1, 1]"]


def test_a_loader_goes_on_where_it_stood():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Samples(), batch_size=4, shuffle=True, generator=generator)
    net = Circle()
    before, state = torch.get_rng_state(), generator.get_state()
    quiet(net, loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("how", [{"features": torch.randn(4, 2)}, {"input_shape": (2,)}])
def test_a_net_in_another_precision_gets_features_in_its_own(dtype, how):
    table = quiet(Circle().to(dtype), **how)
    assert table.param_bytes == 61 * dtype.itemsize


def test_a_net_without_memory_has_a_summary_too():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(100_000, 100_000), nn.ReLU(), nn.Linear(100_000, 10))
    table = quiet(net, torch.randn(4, 100_000))
    assert table.total_params == 100_000 * 100_001 + 10 * 100_001
    assert cells(table, "2")[0] == ["[-1, 10]"]


@pytest.mark.gpu
def test_a_net_on_a_gpu_gets_features_there():
    table = quiet(Circle().cuda(), torch.randn(4, 2))
    assert cells(table, "fc3")[0] == ["[-1, 1]"]
    flops = flop_summary(
        nn.LSTM(3, 5, batch_first=True).cuda(), input_shape=(4, 3), verbose=0, backward=True
    )
    assert flops.forward == 2 * 2 * 4 * 4 * 5 * (3 + 5)


def test_the_states_of_recurrent_layers_show_the_batch():
    net = nn.LSTM(3, 5, batch_first=True, bidirectional=True, num_layers=2)
    table = quiet(net, torch.randn(6, 7, 3))
    assert cells(table, "LSTM")[0] == ["[-1, 7, 10]", "[4, -1, 5]", "[4, -1, 5]"]
    assert table.total_params == count(net)


def test_views_and_work_in_place_take_no_memory():
    net = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.ReLU()
    )
    assert quiet(net, torch.randn(5, 4)).pass_bytes == 2 * 2 * (5 * 6 * 4)


def test_a_lazy_layer_gets_its_parameters():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    torch.manual_seed(0)
    table = quiet(net, torch.randn(5, 3, 6, 6))
    torch.manual_seed(0)
    torch.randn(5, 3, 6, 6)
    same = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    same.eval()(torch.randn(5, 3, 6, 6, generator=torch.Generator()))
    assert table.total_params == count(net) == 4 * 28 + 8 + 2 * 65
    for own, other in zip(net.parameters(), same.parameters(), strict=True):
        assert torch.equal(own, other)  # drawn as by any first batch
    assert net.training


def test_transformers_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    net = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.ones(3, 5, dtype=torch.long), "attention_mask": torch.ones(3, 5)}
    table = quiet(net, batch | {"attention_mask": batch["attention_mask"].long()})
    assert table.total_params == count(net)
    assert cells(table, "BertForSequenceClassification")[0] == ["logits: [-1, 2]"]
    assert cells(table, "word_embeddings") == (["[-1, 5, 8]"], "400", "")


def test_attention_is_shown_though_its_parts_are_not_called():
    net = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    )
    table = quiet(net, torch.randn(3, 5, 8))
    assert table.total_params == count(net)
    assert [row.cells[0] for row in table.rows if row.name == "linear1"] == [["[-1, 5, 16]"]] * 2


class Counts(nn.Module):
    """Disturbs whatever a forward pass can disturb."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("kept", torch.zeros(1))
        self.norm, self.drop, self.fc = nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 1)
        self.fails = False

    def forward(self, x):
        self.calls += 1
        self.kept = self.kept + 1
        noise = torch.rand(1) + np.random.rand()
        y = self.fc(self.drop(self.norm(x)) + noise.to(x.dtype))
        return y @ torch.ones(7, 7) if self.fails else y


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("show", [quiet, lambda *a: flop_summary(*a, backward=True, verbose=0)])
def test_nothing_is_disturbed(fails, show):
    net = Counts()
    net.drop.eval()
    net.fc.weight.grad = torch.ones(1, 3)
    seen = []
    handle = net.fc.register_forward_hook(lambda *_: seen.append(1))
    buffers = {name: (buffer, buffer.clone()) for name, buffer in net.named_buffers()}
    weights = {name: parameter.clone() for name, parameter in net.named_parameters()}
    net.fails = fails
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    if fails:
        with pytest.raises(ShapeError):
            show(net, torch.ones(4, 3))
    else:
        show(net, torch.ones(4, 3))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert (net.training, net.norm.training, net.drop.training) == (True, True, False)
    for name, buffer in net.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, weights[name])
    assert torch.equal(net.fc.weight.grad, torch.ones(1, 3))
    assert net.norm.weight.grad is None
    assert [len(module._forward_hooks) for module in net.modules()] == [0, 0, 0, 1]
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert torch.is_grad_enabled()
    handle.remove()


def test_a_pending_graph_stays_whole():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    loss = net(torch.randn(8, 3)).square().sum()
    quiet(net, torch.randn(8, 3))
    loss.backward()
    assert net[0].weight.grad is not None


def test_torchinfo_agrees_where_it_is_right():
    torchinfo = pytest.importorskip("torchinfo")
    for net, shape in (
        (Circle(), (7, 2)),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2)),
            (4, 3, 8, 8),
        ),
    ):
        theirs = torchinfo.summary(net, input_data=torch.randn(shape), verbose=0, depth=9)
        ours = quiet(net, torch.randn(shape))
        torchinfo.torchinfo.clear_cached_forward_pass()
        assert ours.total_params == theirs.total_params
        assert [row.name for row in ours.rows] == [layer.var_name for layer in theirs.summary_list]
        assert [row.cells[0][0] for row in ours.rows] == [
            str([-1, *layer.output_size[1:]]) for layer in theirs.summary_list
        ]
