import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.callbacks import Callback
from fitorch.nets.modes import modes_restored, training_modes


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
    assert seen == [(True, True), (False, False)] * 2
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


def test_training_modes_leave_the_net_as_it_is():
    net = make_net().eval()
    found = training_modes(net)
    assert modes(net) == [False] * 6
    found.restore()
    assert modes(net) == [True] * 6
