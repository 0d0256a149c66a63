"""Losses of users: what they are a mean over, and subclasses of torch's with their own forward."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitorch import KerasModel
from fitorch.losses.user_loss import SUM, explain_mean

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(13, 5, 4, generator=GENERATOR).double()
TAGS = torch.randint(3, (13, 5), generator=GENERATOR)
TAGS[torch.arange(5) >= torch.randint(1, 6, (13, 1), generator=GENERATOR)] = -100
VALUES = torch.randn(13, 5, 3, generator=GENERATOR).double()
RATE = 0.3


class Transposing(nn.CrossEntropyLoss):
    def forward(self, y_pred, y_true):
        return super().forward(y_pred.transpose(1, 2), y_true)


class Dividing(nn.MSELoss):
    """Sums, and divides by the number of samples itself, as code of VAEs does."""

    def __init__(self):
        super().__init__(reduction="sum")

    def forward(self, y_pred, y_true):
        return super().forward(y_pred, y_true) / len(y_true)


class Summing(nn.Module):
    reduction = "sum"

    def forward(self, y_pred, y_true):
        return (y_pred - y_true).square().sum()


class Focal(nn.CrossEntropyLoss):
    """Takes losses per element from torch, and reduces them itself."""

    def __init__(self):
        super().__init__(reduction="none")

    def forward(self, y_pred, y_true):
        losses = super().forward(y_pred.flatten(0, 1), y_true.flatten())
        counted = y_true.flatten() >= 0
        return ((1 - (-losses).exp()) ** 2 * losses)[counted].mean()


def tokens(y_pred, y_true):
    return F.cross_entropy(y_pred.flatten(0, 1), y_true.flatten())


def per_sequence(y_pred, y_true):
    losses = F.cross_entropy(y_pred.transpose(1, 2), y_true, reduction="none")
    counted = (y_true >= 0).sum(1)
    return (losses.sum(1) / counted).mean()


LOSSES = {
    "a mean over tokens": (tokens, TAGS),
    "a mean over sequences": (per_sequence, TAGS),
    "a subclass that transposes": (Transposing(), TAGS),
    "a subclass that reduces itself": (Focal(), TAGS),
    "a sum that is divided": (Dividing(), VALUES),
    "a sum": (Summing(), VALUES),
    "a mean over samples": (lambda p, t: (p - t).abs().mean(), VALUES),
}


def net():
    torch.manual_seed(1)
    return nn.Linear(4, 3).double()


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize(("loss", "y"), LOSSES.values(), ids=LOSSES)
def test_a_users_loss_is_trained_on_and_measured_as_in_one_batch(loss, y, window):
    trained, by_hand = net(), net()
    rate = 0.01 if isinstance(loss, Summing) else RATE
    model = KerasModel(trained, loss, None, torch.optim.SGD(trained.parameters(), rate))
    whole = loss(by_hand(X), y)
    for batch_size in (13, 5, 1):  # a single sample does not tell what a loss is a mean over
        scores = model.evaluate((X, y), batch_size=batch_size, verbose=0)
        total = whole / 13 if isinstance(loss, Summing) else whole
        assert scores["val_loss"] == pytest.approx(total.item(), rel=1e-9)
    model.fit(
        (X, y),
        epochs=1,
        batch_size=-(-13 // window),
        gradient_accumulation_steps=window,
        shuffle=False,
        verbose=0,
    )
    whole.backward()
    assert by_hand.weight.grad is not None
    expected = by_hand.weight - rate * by_hand.weight.grad
    torch.testing.assert_close(trained.weight, expected, rtol=1e-9, atol=1e-12)


class Rooted(nn.MSELoss):
    def forward(self, y_pred, y_true):
        return super().forward(y_pred.squeeze(-1), y_true).sqrt()


class Casting(nn.BCEWithLogitsLoss):
    def forward(self, y_pred, y_true):
        return super().forward(y_pred, y_true.to(y_pred.dtype))


class Distilling(nn.KLDivLoss):
    def forward(self, y_pred, y_true):
        return super().forward(y_pred.log_softmax(1), y_true.softmax(1))


class Squashing(nn.BCELoss):
    def forward(self, y_pred, y_true):
        return super().forward(y_pred.sigmoid(), y_true)


class Rolling(nn.TripletMarginLoss):
    def forward(self, y_pred, y_true):
        return super().forward(y_pred, y_true, y_true.roll(1, 0))


FLAT, COLUMN = torch.randn(8).double(), torch.randn(8, 3).double()
OWN = {
    "MSELoss": (Rooted(), COLUMN[:, :1], FLAT),
    "BCEWithLogitsLoss": (Casting(), COLUMN, (COLUMN > 0).long()),
    "KLDivLoss": (Distilling(reduction="batchmean"), COLUMN, COLUMN.flip(0)),
    "BCELoss": (Squashing(), COLUMN, (COLUMN > 0).double()),
    "TripletMarginLoss": (Rolling(), COLUMN, COLUMN.flip(0)),
}


@pytest.mark.parametrize(("loss", "y_pred", "y_true"), OWN.values(), ids=OWN)
def test_a_subclass_with_its_own_forward_is_called_as_it_is(loss, y_pred, y_true):
    model = KerasModel(nn.Identity(), loss)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="predictions of shape")
        scores = model.evaluate((y_pred, y_true), verbose=0)
    assert scores["val_loss"] == pytest.approx(loss(y_pred, y_true).item(), rel=1e-9)


def test_metrics_do_not_take_the_threshold_of_an_overridden_loss():
    y_pred = torch.tensor([[0.2], [0.4], [0.9], [0.8]])  # logits, all of them positive
    y_true = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    rest = -y_pred, y_true
    x, y = (torch.cat(parts) for parts in zip((y_pred, y_true), rest, strict=True))
    scores = KerasModel(nn.Identity(), Squashing(), {"acc": "acc"}).evaluate(
        (x, y), batch_size=4, verbose=0
    )
    assert scores["val_acc"] == pytest.approx(((x > 0) == (y > 0)).float().mean().item())


def test_parts_of_two_losses_have_columns_of_their_own():
    def parts(y_pred, y_true):
        return {"mse": F.mse_loss(y_pred, y_true), "l1": F.l1_loss(y_pred, y_true)}

    class Two(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return {"a": y, "b": 2 * y}

    x, y = torch.randn(9, 3).double(), torch.randn(9, 1).double()
    two = Two(3, 1).double()
    scores = KerasModel(two, {"a": parts, "b": parts}).evaluate((x, y), batch_size=4, verbose=0)
    output = two(x)
    for name in ("a", "b"):
        for part, value in parts(output[name], y).items():
            assert scores[f"val_{name}_{part}"] == pytest.approx(value.item(), rel=1e-9)


BOXES = [torch.ones(1 + i % 3, 2).double() for i in range(7)]


class Lists(nn.Linear):
    def forward(self, x):
        return super().forward(x)


def test_targets_that_are_a_list_of_tensors_are_as_many_samples():
    x = torch.randn(7, 2).double()

    def loss(y_pred, y_true):
        return sum(boxes.sum() for boxes in y_true) / len(y_true) + y_pred.mean()

    model = KerasModel(Lists(2, 1).double(), loss)
    whole = model.evaluate([(x, BOXES)], verbose=0)["val_loss"]
    parts = model.evaluate([(x[:5], BOXES[:5]), (x[5:], BOXES[5:])], verbose=0)["val_loss"]
    assert parts == pytest.approx(whole, rel=1e-9)


def test_without_targets_the_samples_of_the_batch_count():
    prior = nn.Parameter(torch.randn(3).double())  # the first output is not of samples
    x = torch.randn(11, 4).double()
    model = KerasModel(
        net(),
        lambda output, _: output[1].square().mean() + output[0].sum(),
        forward=lambda net, batch: ((prior, net(batch[0])), None),
    )
    values = [model.evaluate((x, x), batch_size=size, verbose=0)["val_loss"] for size in (1, 4, 11)]
    assert values == pytest.approx([values[-1]] * 3, rel=1e-9)


def test_a_single_sample_that_does_not_tell_is_said():
    with pytest.warns(UserWarning, match="what per_sequence is a mean over is not known"):
        KerasModel(net(), per_sequence).evaluate((X, TAGS), batch_size=1, verbose=0)


@pytest.mark.parametrize("name", ["samples", "targets", SUM])
def test_an_explanation_is_found_by_two_parts_of_a_batch(name):
    counts = torch.tensor([1.0, 5.0, 2.0, 0.0, 3.0, 4.0])
    values = torch.randn(6)

    def loss(y_pred, y_true):
        if name == SUM:
            return y_pred.sum()
        weight = y_true if name == "targets" else torch.ones(len(y_true))
        return (y_pred * weight).sum() / weight.sum()

    hypotheses = {"samples": torch.ones(6), "targets": counts, SUM: None}
    hypotheses = {"targets": counts, **hypotheses}
    assert explain_mean(loss, values, counts, hypotheses) == name


@pytest.mark.parametrize("loss", [lambda p, t: p.max(), lambda p, t: p, lambda p, t: 1 / 0])
def test_a_loss_without_an_explanation_has_none(loss):
    y = torch.arange(6.0)
    counts = {"targets": y, "samples": torch.ones(6)}
    assert explain_mean(loss, torch.randn(6), y, counts) is None
    assert explain_mean(loss, y[:1], y[:1], counts) is None


def test_the_look_at_a_loss_draws_no_random_numbers():
    def noisy(y_pred, y_true):
        return tokens(y_pred + torch.randn_like(y_pred), y_true)

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    explain_mean(noisy, VALUES, TAGS, {"samples": torch.ones(13)})
    assert torch.equal(torch.rand(1), expected)
    partial_loss = partial(tokens)
    assert explain_mean(partial_loss, VALUES, TAGS, {"samples": torch.ones(13)}) is None


def test_the_look_at_a_loss_leaves_its_buffers():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, y_pred, y_true):
            self.calls += 1
            return tokens(y_pred, y_true)

    loss = Counting()
    model = KerasModel(net(), loss, {"acc": "acc"}, lambda p: torch.optim.SGD(p, 0.1))
    model.fit((X, TAGS), epochs=2, batch_size=5, verbose=0)
    assert loss.calls == 6  # one for each batch, as in a loop by hand
