"""Steps of the user's own, and several optimizers, in several processes: as one process trains."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss, softplus
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import LambdaCallback
from tolerances import FLOAT64

SAMPLES = 53
X = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1, keepdim=True)


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def step(model, batch):
    """Two nets against each other; what is drawn depends on the samples alone."""
    x, y = batch
    net = model.net
    made = net["maker"](y)
    judged = (softplus(-net["judge"](x)) + softplus(net["judge"](made.detach()))).mean()
    model.backward(judged)
    model.update("judge")
    model.measure(made, x)
    loss = softplus(-net["judge"](made)).mean() + mse_loss(made, x)
    model.backward(loss)
    model.update("maker")
    return {"loss": loss, "judge": judged}


def model_of():
    torch.manual_seed(0)
    net = nn.ModuleDict({"maker": mlp(1, 2), "judge": mlp(2, 1)})
    optimizers = {
        "maker": torch.optim.Adam(net["maker"].parameters(), 0.01),
        "judge": torch.optim.SGD(net["judge"].parameters(), 0.1, momentum=0.9),
    }
    return KerasModel(net, None, {"mae": "mae"}, optimizers, step=step)


def fitted(size, **options):
    model = model_of()
    data = DataLoader(TensorDataset(X, Y), size)
    given = {"epochs": 3, "verbose": 0, "seed": 0, "cpu": True, **options}
    frame = model.fit(data, DataLoader(TensorDataset(X, Y), 7), **given)
    return dict(model.net.state_dict()), frame.drop(columns="seconds")


@pytest.mark.parametrize(
    ("window", "clip"),
    [
        (1, None),
        (2, 0.1),
        pytest.param(1, 0.1, marks=pytest.mark.slow),
        pytest.param(2, None, marks=pytest.mark.slow),
    ],
)
def test_two_nets_train_as_in_one_process(two, window, clip):
    options = {"gradient_accumulation_steps": window, "clip_grad_norm": clip}
    (weights, frame), (others, other_frame) = two.run(fitted, 6, **options)
    for name, value in weights.items():
        assert torch.equal(value, others[name])
    assert frame.equals(other_frame)
    expected, expected_frame = fitted(12, **options)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, **FLOAT64)
    for name in expected_frame:
        exact = 1e-6 if name.endswith("mae") else 1e-9  # metrics by name are in float32
        assert frame[name].tolist() == pytest.approx(expected_frame[name].tolist(), rel=exact)


class Cut(Exception):
    """Raised in the middle of a fit."""


def resumed(folder):
    def cut(batch, logs):
        calls.append(batch)
        if len(calls) == 7:
            raise Cut

    calls = []
    options = {"ckpt_path": folder, "save_every_n_steps": 3}
    try:
        fitted(6, callbacks=[LambdaCallback(on_train_batch_end=cut)], **options)
    except Cut:
        return fitted(6, resume=True, **options)
    raise AssertionError


def test_two_nets_resume_to_the_same_bits(two, tmp_path):
    whole, _ = two.run(fitted, 6, ckpt_path=tmp_path / "a")[0]
    for weights, frame in two.run(resumed, tmp_path / "b"):
        assert len(frame) == 3
        for name, value in whole.items():
            assert torch.equal(weights[name], value)


def stopped():
    model = model_of()
    calls = []

    def stop(batch, logs):
        calls.append(batch)
        if model.accelerator.process_index == 1 and len(calls) == 2:
            model.stop_training = True

    data = DataLoader(TensorDataset(X, Y), 6)
    callback = LambdaCallback(on_train_batch_end=stop)
    callback.on_every_process = True
    model.fit(data, epochs=3, verbose=0, cpu=True, callbacks=[callback])
    return len(calls)


def test_a_stop_of_one_process_stops_all_after_the_same_batch(two):
    first, second = two.run(stopped)
    assert first == second < 5


def several(size, **options):
    torch.manual_seed(0)
    net = mlp(2, 1)
    matrices = [p for p in net.parameters() if p.dim() == 2]
    vectors = [p for p in net.parameters() if p.dim() != 2]
    optimizers = [torch.optim.SGD(matrices, 0.1, momentum=0.9), torch.optim.AdamW(vectors, 0.01)]
    model = KerasModel(net, "mse", optimizer=optimizers, **options)
    data = DataLoader(TensorDataset(X, Y), size)
    frame = model.fit(data, epochs=3, verbose=0, seed=0, cpu=True, clip_grad_norm=0.1)
    return dict(net.state_dict()), frame.drop(columns="seconds")


def test_several_optimizers_train_as_in_one_process(two):
    (weights, frame), _ = two.run(several, 6)
    expected, expected_frame = several(12)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, **FLOAT64)
    assert list(frame) == list(expected_frame)


def needing_a_closure():
    model = KerasModel(mlp(2, 1), "mse", optimizer="lbfgs")
    with pytest.raises(ValueError, match=r"LBFGS evaluates .* 2 processes"):
        model.fit((X, Y), epochs=1, verbose=0, cpu=True)


def test_closures_are_refused(two):
    two.run(needing_a_closure)
