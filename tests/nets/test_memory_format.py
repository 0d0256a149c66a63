"""channels_last: the same training in another order of memory."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.fitting import messages as announce
from fitorch.fitting import messages as hints
from tolerances import FLOAT64

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, 8, 8, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(4, (60,), generator=GENERATOR)


class Seeing(nn.Module):
    """Notes whether what it gets lies in channels-last memory."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, x):
        self.seen.add(x.is_contiguous(memory_format=torch.channels_last))
        return x


def net_of_images():
    torch.manual_seed(0)
    return nn.Sequential(
        Seeing(),
        # A bias before normalization has a gradient of rounding alone, which Adam would make large.
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).double()


def model_of(net, channels_last=True, **options):
    chosen = {"optimizer": lambda p: optim.Adam(p, 1e-2, fused=True)} | options
    return KerasModel(
        net, nn.CrossEntropyLoss(), {"acc": "acc"}, **chosen, channels_last=channels_last
    )


def fit(model, data=(X, Y), **options):
    chosen = {"epochs": 2, "batch_size": 16, "seed": 0, "verbose": 0} | options
    return model.fit(data, (X[:20], Y[:20]), **chosen).drop(columns="seconds")


def by_hand(net, epochs=2):
    """Train on contiguous images, in the order of the data."""
    optimizer = optim.Adam(net.parameters(), 1e-2)
    net.train()
    for _ in range(epochs):
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def assert_equal_weights(net, other):
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], **FLOAT64)


LOADER = DataLoader(TensorDataset(X, Y), 16)


@pytest.mark.parametrize("data", [(X, Y), LOADER, [*LOADER]], ids=["arrays", "loader", "list"])
def test_weights_are_those_of_a_loop_by_hand_and_images_lie_channels_last(data):
    net, other = net_of_images(), net_of_images()
    fit(model_of(net), data, shuffle=False)
    by_hand(other)
    assert_equal_weights(net, other)
    assert net[0].seen == {True}
    assert other[0].seen == {False}
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_evaluate_and_predict_see_the_same_layout():
    net = net_of_images()
    model = model_of(net)
    figures = model.evaluate((X, Y), verbose=0)
    predicted = model.predict(X, verbose=0)
    assert net[0].seen == {True}
    net.eval()
    with torch.no_grad():
        expected = net(X)
    torch.testing.assert_close(predicted, expected)
    assert figures["val_loss"] == pytest.approx(nn.functional.cross_entropy(expected, Y).item())


def test_dicts_of_inputs_and_a_forward_of_ones_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.image = net_of_images()

        def forward(self, picture, age):
            return self.image(picture) + age

    ages = torch.rand(60, 4, dtype=torch.float64)
    net = Two()
    model_of(net).fit(({"picture": X, "age": ages}, Y), epochs=1, seed=0, verbose=0)
    assert net.image[0].seen == {True}
    net = net_of_images()
    model = model_of(net, forward=lambda net, batch: (net(batch[0]), batch[1]))
    fit(model)
    assert net[0].seen == {True}


def test_a_fused_optimizers_state_of_another_layout_is_put_in_order():
    """Torch's fused Adam takes memory as it comes: two layouts give wrong weights, silently."""
    net, other = net_of_images(), net_of_images()
    plain = model_of(net, channels_last=False)
    fit(plain, shuffle=False, epochs=1)
    fit(model_of(net, optimizer=plain.optimizer), shuffle=False, epochs=1)
    by_hand(other)
    assert_equal_weights(net, other)


def test_a_loaded_state_of_a_fused_optimizer_is_put_in_order():
    net, other = net_of_images(), net_of_images()
    model = model_of(net)
    fit(model, shuffle=False, epochs=1)
    saved = copy.deepcopy(model.optimizer.state_dict())
    for state in saved["state"].values():
        for key, value in state.items():
            state[key] = value.contiguous() if value.dim() else value  # as files hold it
    model.optimizer.load_state_dict(saved)
    fit(model, shuffle=False, epochs=1)
    by_hand(other)
    assert_equal_weights(net, other)


def test_best_weights_and_files_keep_values_and_layout(tmp_path):
    net = net_of_images()
    model = model_of(net)
    fit(model, ckpt_path=tmp_path)
    plain = net_of_images()
    KerasModel(plain, "cross_entropy").load_ckpt(tmp_path)
    assert_equal_weights(plain, net)
    assert net[5].weight.is_contiguous(memory_format=torch.channels_last)


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3)
        self.output = nn.Linear(2, 4)

    def forward(self, x):
        return self.output(self.conv(x).flatten(2).mean(2))


def test_weights_of_five_dimensions_are_left_alone():
    model = KerasModel(Volume(), nn.CrossEntropyLoss(), channels_last=True)
    frame = model.fit((torch.randn(8, 1, 4, 4, 4), Y[:8]), epochs=1, verbose=0)
    assert frame["train_loss"].notna().all()


def test_it_is_a_bool():
    with pytest.raises(TypeError, match=r"channels_last is 1, a int; expected True or False"):
        model_of(net_of_images(), channels_last=1)


def hints_of(net, capsys, **options):
    KerasModel(net, nn.CrossEntropyLoss(), **options).fit((X, Y), epochs=1, verbose=2)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("hint: ")]


@pytest.fixture
def nothing_hinted(monkeypatch):
    monkeypatch.setattr(hints, "_printed_hints", set())
    monkeypatch.setattr(announce, "_HINTS_AFTER", 0.0)


@pytest.mark.usefixtures("nothing_hinted")
def test_a_short_training_is_not_bothered(capsys, monkeypatch):
    monkeypatch.setattr(announce, "_HINTS_AFTER", 60.0)
    net = net_of_images()
    assert hints_of(net, capsys, optimizer=optim.Adam(net.parameters())) == []


@pytest.mark.usefixtures("nothing_hinted")
def test_what_would_be_faster_is_said_once(capsys):
    net = net_of_images()
    adam = optim.Adam(net.parameters())
    assert hints_of(net, capsys, optimizer=adam) == [
        "hint: Adam(..., fused=True) makes updates faster",
        "hint: KerasModel(..., channels_last=True) is often faster for a net with convolutions",
    ]
    assert hints_of(net, capsys, optimizer=adam) == []


@pytest.mark.usefixtures("nothing_hinted")
@pytest.mark.parametrize(
    "options",
    [
        {"channels_last": True},
        {"channels_last": True, "optimizer": lambda p: optim.SGD(p, 0.1, fused=True)},
        {"channels_last": True, "optimizer": lambda p: optim.Adam(p, foreach=True)},
        {"channels_last": True, "optimizer": lambda p: optim.RMSprop(p)},
    ],
    ids=["our optimizer", "fused", "foreach", "never fused"],
)
def test_nothing_is_said_where_nothing_would_be_faster(capsys, options):
    assert hints_of(net_of_images(), capsys, **options) == []
