"""On a CUDA device; run where there is one: `pytest -m gpu`."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fitorch import KerasModel, NonFiniteError
from fitorch.callbacks import Callback
from fitorch.losses import L1, L2, term
from tolerances import FLOAT32, FLOAT64

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

X = torch.randn(640, 8, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))


def test_the_net_stays_on_the_device_and_predictions_come_back():
    model = KerasModel(mlp(), "mse", {"mae": "mae"})
    frame = model.fit((X, Y), (X, Y), epochs=2, verbose=0)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert model.predict(X, verbose=0).device.type == "cpu"
    assert frame.notna().all().all()


def test_figures_are_those_of_the_cpu():
    scores = {}
    for cpu in (True, False):
        model = KerasModel(mlp(), "mse", {"mae": "mae"}, optimizer="sgd")
        scores[cpu] = model.fit((X, Y), (X, Y), epochs=2, seed=0, cpu=cpu, verbose=0)
    for column in ("train_loss", "train_mae", "val_loss", "val_mae"):
        assert scores[True][column].tolist() == pytest.approx(scores[False][column], rel=1e-4)


class Uncertain(nn.Module):
    """Squared errors, weighted by a precision that is learned."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, y_pred, y_true):
        error = (y_pred - y_true).square().mean()
        return error * torch.exp(-self.log_scale) + self.log_scale


def test_the_terms_of_an_objective_are_those_of_the_cpu():
    frames, scales = {}, {}
    for cpu in (True, False):
        loss_fn = Uncertain()
        objective = term(loss_fn) + 1e-3 * L2() + 1e-3 * L1()
        model = KerasModel(mlp(), objective, optimizer="sgd")
        frames[cpu] = model.fit((X, Y), (X, Y), epochs=2, seed=0, cpu=cpu, verbose=0)
        scales[cpu] = loss_fn.log_scale
    assert scales[False].device.type == "cuda"
    assert scales[False].item() == pytest.approx(scales[True].item(), rel=1e-3)
    for column in ("train_loss", "train_uncertain", "train_l2", "val_l1", "val_loss"):
        assert frames[False][column].tolist() == pytest.approx(frames[True][column], rel=1e-3)


def test_an_objective_trains_in_half_precision_with_accumulation():
    objective = term("mse") + 1e-3 * L2() + 1e-3 * L1()
    model = KerasModel(mlp(), objective, optimizer=lambda p: torch.optim.Adam(p, 1e-2))
    frame = model.fit(
        (X, Y), epochs=5, mixed_precision="fp16", gradient_accumulation_steps=2, verbose=0
    )
    assert frame["train_loss"].iloc[-1] < frame["train_loss"].iloc[0]


def test_the_term_that_became_nan_first_is_named():
    x = X.clone()
    x[300] = float("nan")
    with pytest.raises(NonFiniteError, match=r"\(mse \+ l2\) is nan: mse is nan in epoch 1"):
        KerasModel(mlp(), term("mse") + 1e-3 * L2()).fit((x, Y), epochs=1, verbose=0)


def test_optimizer_state_moves_with_the_net():
    model = KerasModel(mlp(), "mse", optimizer="adam")
    model.fit((X, Y), epochs=1, cpu=True, verbose=0)
    model.fit((X, Y), epochs=1, verbose=0)
    states = model.optimizer.state.values()
    assert {s["exp_avg"].device.type for s in states} == {"cuda"}


def test_half_precision_scales_and_learns():
    model = KerasModel(mlp(), "mse", optimizer=lambda p: torch.optim.Adam(p, 1e-2))
    frame = model.fit((X, Y), epochs=5, mixed_precision="fp16", clip_grad_norm=1.0, verbose=0)
    assert frame["train_loss"].iloc[-1] < frame["train_loss"].iloc[0]


def test_a_loader_with_workers_is_moved_batch_by_batch():
    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return X[index], Y[index]

    loader = DataLoader(Pairs(), batch_size=64, num_workers=2, pin_memory=True)
    assert len(KerasModel(mlp(), "mse").fit(loader, epochs=2, verbose=0)) == 2


def test_nan_is_told_at_the_end_of_the_epoch_at_the_latest():
    x = X.clone()
    x[300] = float("nan")
    with pytest.raises(NonFiniteError, match="nan"):
        KerasModel(mlp(), "mse").fit((x, Y), epochs=1, verbose=0)


class Watch(Callback):
    """Lets nothing wait for the device from the second batch of an epoch to its last but one."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            torch.cuda.set_sync_debug_mode("error")
        elif batch == 18:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("metric", ["mae", "mse"])
def test_nothing_waits_for_the_device_within_an_epoch(metric):
    try:
        model = KerasModel(mlp(), term("mse") + 1e-3 * L2(), {"m": metric}, "adam")
        model.fit((X, Y), epochs=2, batch_size=32, callbacks=[Watch()], verbose=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_steps_train_as_the_loop_does():
    weights = []
    for jit in (True, False):
        model = KerasModel(mlp(), "mse", {"mae": "mae"}, "adam", jit_compile=jit)
        model.fit((X, Y), epochs=2, seed=0, verbose=0)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], **FLOAT32)


def test_images_in_channels_last_memory():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1))
    images = torch.randn(64, 3, 8, 8)
    model = KerasModel(net, "mse", optimizer="adam", channels_last=True)
    frame = model.fit((images, Y[:64]), epochs=3, verbose=0)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert frame["train_loss"].iloc[-1] < frame["train_loss"].iloc[0]


def test_two_fits_give_the_same_bits_where_that_is_wanted():
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1))
        images = torch.randn(64, 3, 8, 8)
        model = KerasModel(net, "mse", optimizer="adam")
        model.fit((images, Y[:64]), epochs=3, seed=1, deterministic=True, verbose=0)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("fsdp", [True, False], ids=["sharded", "replicas"])
def test_two_gpus_train_what_one_does(fsdp):
    weights = []
    for count in (1, 2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(X.shape[1], 32), nn.Tanh(), nn.Linear(32, 1)).double()
        model = KerasModel(net, "mse", optimizer=lambda p: torch.optim.SGD(p, 0.1), fsdp=fsdp)
        data = (X.double(), Y.double())
        options = {"epochs": 2, "batch_size": 64 // count, "seed": 1, "verbose": 0}
        if count == 1:
            model.fit(data, **options)
        else:
            model.fit_ddp(2, data, **options)
        weights.append(torch.cat([p.detach().cpu().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, **FLOAT64)
