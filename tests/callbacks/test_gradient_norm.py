"""The norm of the gradients, beside loops written by hand."""

import math

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from fitorch import KerasModel
from fitorch.callbacks import Callback, GradientNorm
from fitorch.callbacks.gradient_norm import total_norm
from fitorch.engine.steps import compiled_region as region
from versions import since_torch

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
LOADER = DataLoader(TensorDataset(X, Y), batch_size=8)
FIGURES = ["grad_norm", "grad_norm_max"]


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def fitted(*callbacks, net=None, data=LOADER, epochs=2, jit_compile=False, **options):
    net = net or make_net()
    optimizer = optim.SGD(net.parameters(), 0.1)
    model = KerasModel(net, "mse", optimizer=optimizer, jit_compile=jit_compile)
    return model.fit(
        data, epochs=epochs, callbacks=callbacks, verbose=0, seed=0, cpu=True, **options
    )


def by_hand(norm_type=2.0, window=1, clip=None):
    """Mean and maximum of the norm, for each epoch."""
    net, rows = make_net(), []
    optimizer = optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        batches, norms = list(LOADER), []
        for first in range(0, 4, window):
            group = batches[first : first + window]
            optimizer.zero_grad()
            for x, y in group:
                (nn.functional.mse_loss(net(x), y) / len(group)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            flat = torch.cat([p.grad.flatten() for p in net.parameters()])
            norms.append(flat.norm(norm_type).item())
            optimizer.step()
        rows.append([sum(norms) / len(norms), max(norms)])
    return rows


def close(frame, rows):
    return frame[FIGURES].to_numpy() == pytest.approx(torch.tensor(rows).numpy(), rel=1e-4)


@pytest.mark.parametrize("norm_type", [1, 2.0, 3.0, math.inf])
def test_mean_and_maximum_are_columns_of_the_history(norm_type):
    assert close(fitted(GradientNorm(norm_type)), by_hand(norm_type))


@pytest.mark.parametrize("window", [2, 3, 4])
def test_accumulated_batches_count_once(window):
    frame = fitted(GradientNorm(), gradient_accumulation_steps=window)
    assert close(frame, by_hand(window=window))


def test_it_is_taken_after_clipping():
    frame = fitted(GradientNorm(), clip_grad_norm=0.5)
    assert close(frame, by_hand(clip=0.5))
    assert frame["grad_norm_max"].max() <= 0.5 + 1e-6


@pytest.mark.slow
@since_torch("2.13")
def test_with_a_compiled_step(monkeypatch):
    monkeypatch.setattr(region, "_BACKEND", "aot_eager")
    torch._dynamo.reset()
    assert close(fitted(GradientNorm(), jit_compile=True), by_hand())


def test_nothing_is_read_before_the_epoch_ends(monkeypatch):
    class Watch(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.reads = 0

        def on_epoch_end(self, epoch, logs=None):
            assert self.reads == 0

    watch, gradient_norm = Watch(), GradientNorm()
    read = torch.Tensor.tolist

    def counted(tensor):
        watch.reads += 1
        return read(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    fitted(watch, gradient_norm)
    assert watch.reads == 1


def test_sparse_gradients_and_parameters_without_any_count_too():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3, sparse=True)
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            return self.embedding(x).sum((1, 2)).unsqueeze(1)

    seen = []

    class Look(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.net.embedding.weight.grad.to_dense().norm().item())

    words = torch.tensor([[0, 1], [1, 1], [2, 4], [3, 3]])
    data = [(words, torch.ones(4, 1))] * 2
    frame = fitted(Look(), GradientNorm(), net=Words(), data=data, epochs=1, batch_size=None)
    assert frame["grad_norm"][0] == pytest.approx(sum(seen) / 2)


def test_half_precision_has_a_norm_in_single():
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    assert total_norm([weight], 2.0) is None
    weight.grad = torch.ones_like(weight)
    norm = total_norm([weight], 2.0)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(3**0.5, rel=1e-2)


def test_updates_that_a_scaler_skips_do_not_count():
    callback = GradientNorm()
    callback._scaled = True
    for value in (1.0, math.inf, 3.0, math.nan):
        callback._accumulate(torch.tensor(value))
    logs = {}
    callback.on_epoch_end(0, logs)
    assert logs == {"grad_norm": 2.0, "grad_norm_max": 3.0}


def test_gradients_that_are_not_finite_show_without_a_scaler():
    callback = GradientNorm()
    for value in (1.0, math.inf):
        callback._accumulate(torch.tensor(value))
    logs = {}
    callback.on_epoch_end(0, logs)
    assert logs == {"grad_norm": math.inf, "grad_norm_max": math.inf}


def test_an_epoch_goes_on_after_the_state_came_back():
    logs, whole = {}, GradientNorm()
    whole.on_epoch_begin(3)
    first = GradientNorm()
    first.on_epoch_begin(3)
    first._accumulate(torch.tensor(5.0))
    second = GradientNorm()
    second.set_model(KerasModel(make_net(), "mse"))
    second.load_state_dict(first.state_dict())
    second.on_train_begin()
    second.on_epoch_begin(3)
    second._accumulate(torch.tensor(1.0))
    second.on_epoch_end(3, logs)
    assert logs == {"grad_norm": 3.0, "grad_norm_max": 5.0}
    second.on_epoch_begin(4)
    second.on_epoch_end(4, logs := {})
    assert logs == {}


@pytest.mark.parametrize("norm_type", [0, -1.0, math.nan, True])
def test_a_norm_that_is_none_is_refused(norm_type):
    with pytest.raises(ValueError, match=r"norm_type is .*; expected a number > 0"):
        GradientNorm(norm_type)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_a_norm_may_be_larger_than_half_precision_can_hold(norm_type):
    weights = [nn.Parameter(torch.zeros(100, 100, dtype=torch.float16)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 1000.0)
    expected = torch.linalg.vector_norm(torch.full((20_000,), 1000.0).double(), norm_type)
    norm = total_norm(weights, norm_type)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(expected.item(), rel=1e-4)
