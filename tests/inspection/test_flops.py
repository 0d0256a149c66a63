"""The operations of layers; truth is torch's counter, and counts by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from inspection.tables import Circle, flops


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
