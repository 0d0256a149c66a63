"""The tables of layers; truth is torch itself, and counts by hand."""

import dataclasses
import re
import sys
import types
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from fitorch import KerasModel, ShapeError, flop_summary, summary
from fitorch.summary import Summary

MEGABYTE = 2**20


def quiet(net, *args, **kwargs):
    return summary(net, *args, verbose=0, **kwargs)


def cells(table, name):
    """Return shapes, parameters and note of the row of a layer."""
    (row,) = [row for row in table.rows if row.name == name]
    return list(row.cells[0]), row.cells[1][0], row.note


def count(net):
    return sum(parameter.numel() for parameter in set(net.parameters()))


class Circle(nn.Module):
    """The net of torchkeras' readme."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 4)
        self.fc2 = nn.Linear(4, 8)
        self.fc3 = nn.Linear(8, 1)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Returns(nn.Module):
    """Gives what `make` makes of a linear layer's output."""

    def __init__(self, make):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.make = make

    def forward(self, x):
        return self.make(self.linear(x))


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


def test_a_layer_that_fails_is_named_below_the_layers_up_to_it(capsys):
    net = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), nn.Linear(3, 1))
    with pytest.raises(ShapeError) as caught:
        summary(net, torch.randn(6, 2))
    text = str(caught.value)
    assert "mat1 and mat2 shapes cannot be multiplied (6x4 and 5x3)" in text
    assert "[in 1.1 (Linear), which got float32 (6, 4)]" in text
    assert isinstance(caught.value.__cause__, RuntimeError)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[3:8]] == [
        ["Sequential"],
        ["├─", "0", "(Linear)", "[-1,", "4]", "12"],
        ["└─", "1", "(Sequential)"],
        ["├─", "0", "(ReLU)", "[-1,", "4]", "0"],
        ["└─", "1", "(Linear)", "18", "failed", "here"],
    ]
    assert not any("2 (Linear)" in line for line in lines)


def test_an_error_of_another_kind_keeps_its_type_and_says_where():
    class Broken(nn.Module):
        def forward(self, x):
            return x.no_such_thing

    with pytest.raises(AttributeError) as caught:
        quiet(nn.Sequential(nn.Linear(2, 4), Broken()), torch.randn(6, 2))
    assert "in 1 (Broken), which got float32 (6, 4)" in str(
        [*getattr(caught.value, "__notes__", []), *caught.value.args]
    )


def test_floats_for_an_embedding_are_explained():
    with pytest.raises(RuntimeError) as caught:
        quiet(nn.Sequential(nn.Embedding(9, 5)), input_shape=(4,))
    told = str([*getattr(caught.value, "__notes__", []), *caught.value.args])
    assert "pass them, or input_dtype=torch.long" in told


def test_a_net_that_catches_a_layers_error_goes_on():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong, self.right = nn.Linear(9, 9), nn.Linear(2, 3)

        def forward(self, x):
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.right(x)

    table = quiet(Tries(), torch.randn(5, 2))
    assert cells(table, "right")[0] == ["[-1, 3]"]
    assert cells(table, "Tries")[0] == ["[-1, 3]"]


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        ((), {}, ValueError, "got neither; pass a batch"),
        ((torch.ones(2, 2),), {"input_shape": (2,)}, ValueError, "but got both"),
        ((3,), {}, TypeError, "features is a int; expected a batch"),
        (("x",), {}, TypeError, "features is a str; expected a batch"),
        (((3, 32, 32),), {}, TypeError, "or input_shape="),
        ((), {"input_shape": 3}, TypeError, "input_shape has 3; expected sizes"),
        ((), {"input_shape": (-1, 3)}, ValueError, "omit the batch dimension"),
        ((), {"input_shape": (2,), "input_dtype": "no"}, TypeError, "input_dtype='no'"),
        ((), {"input_shape": [(2,), "ab"]}, TypeError, "input_shape has 'ab'"),
    ],
)
def test_what_is_no_batch_and_no_shape_is_refused(args, kwargs, error, text):
    with pytest.raises(error, match=text.replace("(", r"\(")):
        quiet(Circle(), *args, **kwargs)


@pytest.mark.parametrize("show", [summary, flop_summary])
def test_what_is_no_net_is_refused(show):
    with pytest.raises(TypeError, match="net is a function; expected a"):
        show(lambda x: x, torch.ones(2, 2))


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_compiled_net_is_shown_uncompiled():
    net = Circle()
    assert quiet(torch.compile(net), torch.randn(5, 2)).total_params == 61
    net.compile()
    before = net._compiled_call_impl
    assert cells(quiet(net, torch.randn(5, 2)), "fc1")[0] == ["[-1, 4]"]
    assert net._compiled_call_impl is before


def test_a_model_shows_its_net(capsys):
    model = KerasModel(Circle(), "mse")
    table = model.summary(torch.randn(100, 2))
    assert isinstance(table, Summary)
    assert capsys.readouterr().out == f"{table}\n"
    assert model.summary(input_shape=(2,), verbose=0).total_params == 61


def test_the_interpreter_shows_no_second_table():
    assert repr(quiet(Circle(), input_shape=(2,))) == "<Summary of Circle: 61 parameters>"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_text_keeps_to_its_width(width):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a_rather_long_name = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
            self.again = self.a_rather_long_name[1]

        def forward(self, x):
            return {"features": self.again(self.a_rather_long_name(x))}

    table = quiet(Net(), torch.randn(128, 3, 128, 128)[:2])
    flops = flop_summary(Net(), torch.randn(2, 3, 128, 128), backward=True, verbose=0)
    for shown in (table, flops):
        lines = shown.text(width).splitlines()
        assert max(map(len, lines)) <= width
        assert shown.text(200) == str(shown)
    assert "same as a_rather_long_name.1"[:20] in table.text(width)


def test_a_terminal_without_line_drawing_gets_plain_letters(capsys, monkeypatch):
    class Ascii:
        encoding = "ascii"

        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Ascii())
    summary(Circle(), torch.randn(5, 2))
    assert "|- fc1 (Linear)" in sys.stdout.text
    sys.stdout.text.encode("ascii")


@pytest.fixture
def notebook(monkeypatch):
    """IPython as it is in a notebook's kernel: what was published, and the number of the cell."""
    published = []
    shell = type("ZMQInteractiveShell", (), {"execution_count": 1})()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell
    display.publish_display_data = published.append
    display.display = lambda shown: shown._ipython_display_()
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shell, published


def test_a_notebook_shows_the_table_once(notebook, capsys):
    shell, published = notebook
    table = summary(Circle(), torch.randn(5, 2))
    table._ipython_display_()  # as the last line of the cell
    assert len(published) == 1
    assert published[0]["text/plain"] == str(table)
    assert published[0]["text/html"].count("<tr>") >= 4
    assert capsys.readouterr().out == ""
    shell.execution_count = 2
    table._ipython_display_()  # `table` in a cell of its own
    assert len(published) == 2


def test_what_comes_from_the_net_is_escaped_in_html():
    kind = type("<script>alert(1)</script>", (nn.ReLU,), {})
    net = nn.Sequential()
    net.add_module("<b>'\"&", kind())
    html = quiet(Returns(lambda y: {"<i>": net(y)}), torch.randn(4, 3))._repr_html_()
    html += quiet(net, torch.randn(4, 3))._repr_html_()
    assert "<script" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;&#39;&#34;&amp;" in html


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


def flops(net, *args, **kwargs):
    return flop_summary(net, *args, verbose=0, **kwargs)


def figures(table, name):
    (row,) = [row for row in table.rows if row.name == name]
    return [cell[0] for cell in row.cells[1:]]


def test_the_operations_of_linear_layers_and_convolutions():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    table = flops(net, torch.randn(4, 3, 8, 8), backward=True)
    conv, linear = 2 * 4 * (8 * 6 * 6) * (3 * 3 * 3), 2 * 4 * (8 * 6 * 6) * 10
    assert table.forward == conv + linear
    assert table.backward == conv + 2 * linear  # the features need no gradient
    assert table.total == table.forward + table.backward
    assert figures(table, "0") == ["62.2 K", "62.2 K", f"{100 * 2 * conv / table.total:.1f}"]
    assert figures(table, "3") == ["23.0 K", "46.1 K", f"{100 * 3 * linear / table.total:.1f}"]
    assert figures(table, "Sequential")[2] == "100.0"
    assert f"{table.total:,}" in str(table)
    assert f"{table.total // 4:,}" in str(table)
    assert "Backward" not in str(flops(net, torch.randn(4, 3, 8, 8)))


def test_a_list_of_layers_has_the_operations_of_those_in_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
            self.unused = nn.ModuleList([nn.Linear(3, 3)])

        def forward(self, x):
            return self.layers[1](self.layers[0](x))

    table = flops(Net(), torch.randn(5, 3), depth=1)
    assert figures(table, "layers") == ["180", "100.0"]
    assert figures(table, "unused") == ["", ""]


def test_the_total_is_that_of_torchs_counter():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ConvTranspose2d(8, 4, 2), nn.Flatten())
    x = torch.randn(4, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        net(x).sum().backward()
    assert flops(net, x, backward=True).total == counter.get_total_flops()


def test_backward_operations_belong_to_the_branch_that_caused_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 5), nn.Linear(7, 5), nn.Linear(5, 2)

        def forward(self, x, y):
            return self.head(self.a(x) + self.b(y))

    table = flops(Net(), (torch.randn(6, 3), torch.randn(6, 7)), backward=True)
    a, b, head = 2 * 6 * 3 * 5, 2 * 6 * 7 * 5, 2 * 6 * 5 * 2
    assert table.backward == a + b + 2 * head
    assert [figures(table, name)[:2] for name in ("a", "b", "head")] == [
        [str(a), str(a)],
        [str(b), str(b)],
        [str(head), str(2 * head)],
    ]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_are_counted(kind):
    enabled = torch.backends.mkldnn.enabled
    gates = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    table = flops(kind(3, 5, batch_first=True), torch.randn(2, 7, 3))
    assert table.forward == 2 * 2 * 7 * gates * 5 * (3 + 5)
    assert torch.backends.mkldnn.enabled == enabled


def test_attention_is_counted():
    class Net(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    q = torch.randn(2, 3, 11, 4)
    assert flops(Net(), q).forward == 2 * (2 * 2 * 3 * 11 * 11 * 4)
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    count = flops(net, (x, x, x)).forward
    assert count == 2 * 2 * 5 * 8 * 24 + 2 * 2 * 5 * 8 * 8 + 2 * (2 * 2 * 2 * 5 * 5 * 4)


def test_a_backward_pass_needs_something_to_train():
    net = Circle().requires_grad_(False)
    with pytest.raises(ValueError, match="no backward pass to count"):
        flops(net, torch.randn(4, 2), backward=True)
    assert flops(net, torch.randn(4, 2)).forward == 2 * 4 * (8 + 32 + 8)


def test_gradients_are_left_alone():
    net = Circle()
    flops(net, torch.randn(4, 2), backward=True)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 K"),
        (9996, "10.0 K"),
        (99_960, "100 K"),
        (999_600, "1.00 M"),
        (1_234_567, "1.23 M"),
        (3_600_000_000, "3.60 G"),
    ],
)
def test_counts_have_three_digits_and_a_unit(number, text):
    from fitorch.inspection.flops import format_count

    assert format_count(number) == text


def test_the_document_shows_what_is_printed(capsys):
    page = (Path(__file__).parents[2] / "docs" / "summary.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|text)\n(.*?)```", page, flags=re.DOTALL)
    assert [kind for kind, _ in blocks[:4]] == ["python", "text", "python", "text"]
    namespace = {}
    for program, text in ((blocks[0][1], blocks[1][1]), (blocks[2][1], blocks[3][1])):
        exec(compile(program, "summary.md", "exec"), namespace)
        assert capsys.readouterr().out == text
