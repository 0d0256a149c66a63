import copy
from functools import partial

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.nets.modes import TrainingModes, modes_restored


def make_net():
    return nn.Sequential(
        nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 1))
    )


def data(samples=20):
    return torch.randn(samples, 2), torch.randn(samples, 1)


def modes(net):
    return [module.training for module in net.modules()]


@pytest.fixture
def mixed():
    """A net with modes of its own: some parts train, some don't."""
    net = make_net()
    net[1].eval()
    net[3][0].eval()
    return net


@pytest.mark.parametrize("training", [True, False])
def test_fit_evaluate_and_predict_keep_the_mode_of_a_net(training):
    net = make_net().train(training)
    model = KerasModel(net, "mse")
    model.fit(data(), data(), epochs=2, verbose=0)
    model.evaluate(data(), verbose=0)
    model.predict(data()[0], verbose=0)
    assert modes(net) == [training] * 6


def test_fit_evaluate_and_predict_keep_the_mode_of_each_part(mixed):
    before = modes(mixed)
    model = KerasModel(mixed, "mse")
    model.fit(data(), data(), epochs=2, verbose=0)
    assert modes(mixed) == before
    model.evaluate(data(), verbose=0)
    assert modes(mixed) == before
    model.predict(data()[0], verbose=0)
    assert modes(mixed) == before


def test_a_part_frozen_with_eval_stays_frozen_in_training(mixed):
    before = mixed[1].running_mean.clone()
    KerasModel(mixed, "mse").fit(data(), data(), epochs=2, verbose=0)
    assert torch.equal(mixed[1].running_mean, before)
    assert mixed[1].num_batches_tracked == 0


def test_a_net_last_used_for_inference_trains_in_full():
    net = make_net().eval()
    KerasModel(net, "mse").fit(data(), epochs=1, batch_size=10, verbose=0)
    assert net[1].num_batches_tracked == 2


def test_validation_runs_all_parts_in_eval_mode_and_without_gradients():
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            return x

    model = KerasModel(nn.Sequential(nn.Linear(2, 1), Watch()), "mse")
    model.fit(data(), data(), epochs=2, verbose=0)
    rehearsal = [(False, False)]
    assert seen == rehearsal + [(True, True), (False, False)] * 2
    seen.clear()
    model.evaluate(data(), verbose=0)
    model.predict(data()[0], verbose=0)
    assert seen == [(False, False)] * 2


def test_gradients_are_on_again_after_validation():
    KerasModel(make_net(), "mse").fit(data(), data(), epochs=1, verbose=0)
    assert torch.is_grad_enabled()


class Fails(nn.Module):
    """Raises where it does not train."""

    def forward(self, x):
        if not self.training:
            message = "not today"
            raise ArithmeticError(message)
        return x


def test_modes_come_back_after_an_error_in_validation(mixed):
    net = nn.Sequential(mixed, Fails())
    before = modes(net)
    model = KerasModel(net, "mse")
    for run in (
        lambda: model.fit(data(), data(), epochs=1, verbose=0),
        lambda: model.evaluate(data(), verbose=0),
        lambda: model.predict(data()[0], verbose=0),
    ):
        with pytest.raises(ArithmeticError, match="not today"):
            run()
        assert modes(net) == before
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "hook", ["on_epoch_begin", "on_train_batch_end", "on_test_batch_end", "on_epoch_end"]
)
def test_modes_come_back_after_an_error_in_a_callback(mixed, hook):
    def fail(self, *_):
        message = "oops"
        raise ArithmeticError(message)

    before = modes(mixed)
    failing = type("Failing", (Callback,), {hook: fail})()
    with pytest.raises(ArithmeticError, match="oops"):
        KerasModel(mixed, "mse").fit(data(), data(), epochs=1, callbacks=[failing], verbose=0)
    assert modes(mixed) == before


def test_a_module_that_is_used_twice_has_one_mode():
    shared = nn.Dropout(0.5)
    net = nn.Sequential(nn.Linear(2, 2), shared, shared)
    with modes_restored(net):
        net.eval()
    assert modes(net) == [True] * 3


def test_training_modes_leave_the_net_as_it_is_until_they_are_applied():
    net = make_net().eval()
    found = TrainingModes(net)
    assert modes(net) == [False] * 6
    found.apply()
    assert modes(net) == [True] * 6


def test_a_part_that_trains_within_a_frozen_module_stays_so(mixed):
    mixed[3].eval()
    mixed[3][0].train()
    before = modes(mixed)
    TrainingModes(mixed).apply()
    assert modes(mixed) == before


class FrozenBody(nn.Module):
    """Keeps the statistics of its body by overriding `train`."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("before", ["fresh", "train", "eval"])
def test_a_net_that_keeps_its_body_in_eval_mode_is_asked_before_each_epoch(before):
    net = FrozenBody()
    if before != "fresh":
        net.train(before == "train")
    found = modes(net)
    KerasModel(net, "mse").fit(data(), data(), epochs=2, batch_size=10, verbose=0)
    assert net.body.num_batches_tracked == 0
    assert modes(net) == found


class Adapter(nn.Module):
    """Merges a low-rank adapter into the weight for inference, as LoRA layers do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            sign = -1 if mode else 1
            self.linear.weight.data += sign * (self.a @ self.b).data
            self.merged = not mode
        return self

    def forward(self, x):
        y = self.linear(x)
        return y if self.merged else y + x @ (self.a @ self.b).T


@pytest.mark.parametrize("inside", [False, True], ids=["the net", "a part of it"])
def test_an_adapter_that_merges_for_inference_is_trained_as_by_hand(inside):
    torch.manual_seed(0)
    adapter = Adapter().double()
    net = nn.Sequential(adapter) if inside else adapter
    by_hand = copy.deepcopy(net)
    (x, y), (val_x, val_y) = (tuple(part.double() for part in data()) for _ in range(2))
    sgd = partial(torch.optim.SGD, lr=0.1)
    history = KerasModel(net, "mse", optimizer=sgd).fit(
        (x, y), (val_x, val_y), epochs=3, batch_size=20, verbose=0
    )
    optimizer, losses = sgd(by_hand.parameters()), []
    for _ in range(3):
        by_hand.train()
        optimizer.zero_grad()
        nn.functional.mse_loss(by_hand(x), y).backward()
        optimizer.step()
        by_hand.eval()
        with torch.no_grad():
            losses.append(nn.functional.mse_loss(by_hand(val_x), val_y).item())
    by_hand.train()
    assert history["val_loss"].tolist() == pytest.approx(losses, rel=1e-10)
    assert not adapter.merged
    for trained, expected in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-10, atol=0)


def test_evaluate_and_predict_call_eval_and_then_train():
    called = []

    class Noting(nn.Linear):
        def train(self, mode=True):
            called.append(mode)
            return super().train(mode)

    model = KerasModel(nn.Sequential(Noting(2, 1)), "mse")
    model.evaluate(data(), verbose=0)
    model.predict(data()[0], verbose=0)
    assert called == [False, True] * 2
