"""Scenarios: what is wrong on a device is found, and named right."""

import pytest
import torch

from devices.problems import (
    CLASSES,
    DEVICE,
    X,
    linear,
    message_of,
    model_of,
    train,
)
from devices.scenarios import Scenarios
from fitorch import DataError, NonFiniteError, callbacks
from fitorch.engine.steps import nonfinite_watch

SCENARIOS = Scenarios()


def _message_of_nan(device, **options):
    x = torch.randn(16 * 200, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :1].clone()
    x[16 * 3] = float("nan")  # in batch 4 of 200
    model = model_of(device, optimizer="sgd", **options)
    with pytest.raises(NonFiniteError) as error:
        train(model, (x, y), epochs=1, batch_size=16, shuffle=False)
    return message_of(error), model.updates


@SCENARIOS.add
def a_gradient_that_is_not_finite_is_found_with_the_epoch():
    def root(y_pred, y_true):
        return (y_pred - y_true).square().mean().sqrt()  # its gradient at 0 is NaN

    model = model_of(DEVICE, lambda: torch.nn.Linear(4, 1, bias=False), root, optimizer="sgd")
    with pytest.raises(NonFiniteError, match="its gradient is not"):
        train(model, (torch.zeros(8, 4), torch.zeros(8, 1)), epochs=1)


@SCENARIOS.add
def a_norm_that_is_not_finite_is_found_with_the_epoch():
    def large(y_pred, y_true):
        return (y_pred - y_true).square().mean() * 1e25

    model = model_of(DEVICE, loss=large, optimizer="sgd")
    with pytest.raises(NonFiniteError, match="norm"):
        train(model, (X, X[:, :1]), epochs=1, clip_grad_norm=1.0)


@SCENARIOS.add
def parts_that_are_buffers_are_averaged():
    class Smooth(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("smooth", torch.zeros(()))

        def forward(self, y_pred, y_true):
            loss = (y_pred - y_true).square().mean()
            self.smooth.mul_(0.9).add_(0.1 * loss.detach())
            return loss, {"smooth": self.smooth}

    found = [
        train(model_of(device, loss=Smooth()), (X, X[:, :1]), batch_size=8)
        for device in (DEVICE, "cpu")
    ]
    there, here = (each["history"]["train_smooth"] for each in found)
    assert there == pytest.approx(here, rel=1e-5)


@SCENARIOS.add
def data_that_a_callback_changes_in_place_is_seen():
    found = []
    for device in (DEVICE, "cpu"):
        y = X[:, :1].clone()
        change = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, y=y: y.mul_(-3))
        frame = train(model_of(device), (X, y), epochs=3, callbacks=[change])
        found.append(frame["history"]["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@SCENARIOS.add
def features_and_targets_on_different_devices():
    expected = train(model_of("cpu"), (X, X[:, :1]))["history"]["train_loss"]
    for data in ((X.to(DEVICE), X[:, :1]), (X, X[:, :1].to(DEVICE))):
        found = train(model_of(DEVICE), data)["history"]["train_loss"]
        assert found == pytest.approx(expected, rel=1e-5)


@SCENARIOS.add
def a_module_as_a_metric_has_its_weights_on_the_device():
    weighted = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
    data = X, (X[:, :1] > 0).float()
    found = [
        train(model_of(device, metrics={"weighted": weighted}), data)["history"]["train_weighted"]
        for device in (DEVICE, "cpu")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@SCENARIOS.add
def nan_is_told_with_its_batch_and_samples():
    for on_device in (True, False):
        message, _ = _message_of_nan(DEVICE, data_on_device=on_device)
        assert "batch 4" in message, message
        assert "[48," in message, message


@SCENARIOS.add
def nan_is_found_within_the_epoch():
    pause, nonfinite_watch._PAUSE = nonfinite_watch._PAUSE, 0.01  # seconds; the epoch is short
    try:
        _, updates = _message_of_nan(DEVICE)
    finally:
        nonfinite_watch._PAUSE = pause
    assert updates < 150, updates


@SCENARIOS.add
def targets_out_of_range_are_told_with_their_classes():
    y = CLASSES.clone()
    y[5] = 7
    with pytest.raises(DataError, match="7"):
        train(model_of(DEVICE, lambda: linear(3), "cross_entropy"), (X, y))
