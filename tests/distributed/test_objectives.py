"""Nets, losses and batches of every form, trained by several processes as by one."""

import pandas as pd
import pytest
import torch
from torch import nn

from fitorch import DataError, KerasModel, RankError
from fitorch.losses import L2, term
from tolerances import FLOAT64

SAMPLES = 50


def samples():
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1)).double()
    return x, x[:, :3].argmax(1)


class CenterLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(3, 8, dtype=torch.float64))

    def forward(self, features, y_true):
        return 0.5 * (features - self.centers[y_true]).square().sum(1)


class Two(nn.Module):
    """Gives a class and features; a branch is never used."""

    def __init__(self, unused=False):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        if unused:
            self.unused = nn.Linear(2, 2)
        self.double()

    def forward(self, x):
        features = self.body(x).tanh()
        return {"digit": self.head(features), "features": features}


def model_of(kind):
    net, hook = Two(unused=kind == "unused"), None
    loss = {"digit": nn.CrossEntropyLoss()}
    if kind == "learned":
        loss["features"] = 0.1 * term(CenterLoss(), per_sample=True)
    elif kind == "hook":
        loss = nn.CrossEntropyLoss() + 1e-2 * L2()

        def hook(net, batch):
            return net(batch["x"])["digit"], batch["y"]

    elif kind == "ignoring":
        loss["features"] = nn.CrossEntropyLoss(ignore_index=1)
    elif kind == "summed":
        loss["features"] = 0.01 * term(nn.CrossEntropyLoss(reduction="sum"))
    return KerasModel(net, loss, None, lambda p: torch.optim.SGD(p, 0.1), forward=hook)


def trained(kind, world, **options):
    model = model_of(kind)
    x, y = samples()
    data = {"x": x, "y": y} if kind == "hook" else (x, {"digit": y, "features": y})
    if kind in ("unused", "plain"):
        data = x, {"digit": y}
    frame = model.fit(data, epochs=2, batch_size=12 // world, seed=3, verbose=0, **options)
    state = {name: value.clone() for name, value in model.net.state_dict().items()}
    state |= {name: value.clone() for name, value in model.objective.state_dict().items()}
    return state, frame.drop(columns="seconds")


@pytest.mark.parametrize("kind", ["plain", "learned", "hook", "ignoring", "summed"])
def test_losses_of_every_form_train_alike(several, kind):
    expected, table = trained(kind, 1)
    for state, figures in several.run(trained, kind, several.count):
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(state[name], value, **FLOAT64), name
        pd.testing.assert_frame_equal(figures, table, **FLOAT64)


def test_unused_parameters_are_allowed_where_that_was_said(two):
    expected, _ = trained("unused", 1)
    for state, _ in two.run(trained, "unused", 2, find_unused_parameters=True):
        for name, value in expected.items():
            assert torch.allclose(state[name], value, **FLOAT64), name


def refused(kind):
    with pytest.raises((RankError, RuntimeError)) as caught:
        trained(kind, 2)
    return str(caught.value), getattr(caught.value, "__notes__", [])


def test_an_error_over_unused_parameters_tells_the_way_out(two):
    for _, notes in two.run(refused, "unused"):
        assert any("find_unused_parameters=True" in note for note in notes)


def refused_windows():
    with pytest.raises(RankError) as caught:
        trained("ignoring", 2, gradient_accumulation_steps=2)
    return str(caught.value)


def test_terms_that_count_differently_are_refused_where_several_batches_make_an_update(two):
    for message in two.run(refused_windows):
        assert "means over different numbers of targets" in message
        assert "use gradient_accumulation_steps=1" in message


def too_few():
    model, refused = model_of("plain"), []
    x, y = samples()
    for data in ((x[:2], {"digit": y[:2]}), [(x[:5], {"digit": y[:5]})] * 2):
        with pytest.raises(DataError) as caught:
            model.fit(data, epochs=1, verbose=0, seed=1)
        refused.append(str(caught.value))
    return refused


def test_fewer_samples_than_processes_are_refused(three):
    for samples_told, batches_told in three.run(too_few):
        assert samples_told.startswith("train_data has 2 samples, fewer than the 3 processes")
        assert batches_told.startswith("train_data has 2 batches, fewer than the 3 processes")


def counted_otherwise_later():
    """Train where the second term has a target for each sample, and later for five of them."""
    x, _ = samples()
    first = (x[:8], x[:8, :3])
    torch.manual_seed(0)
    model = KerasModel(
        nn.Linear(x.shape[1], 3).to(x.dtype),
        {"all": nn.MSELoss(), "some": nn.MSELoss()},
        None,
        lambda p: torch.optim.SGD(p, 0.1),
        forward=lambda net, batch: take(net, batch, 8 if batch[0][0, 0] == x[0, 0] else 5),
    )
    model.fit([first] * 2, epochs=1, verbose=0, seed=1)
    with pytest.raises(RankError) as caught:
        model.fit([first] * 2 + [(x[8:16], x[8:16, :3])] * 2, epochs=1, verbose=0, seed=1)
    return str(caught.value)


def take(net, batch, count):
    outputs = net(batch[0])
    return {"all": outputs, "some": outputs[:count]}, {"all": batch[1], "some": batch[1][:count]}


def test_terms_that_begin_to_count_differently_are_told(two):
    for message in two.run(counted_otherwise_later):
        assert "over equal numbers in the first batch, but over 8, 5 in this one" in message
