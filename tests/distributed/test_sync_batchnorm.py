"""sync_batchnorm: what one process gives on the batches of all, running statistics included."""

import pandas as pd
import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.distributed.sync_batchnorm import SyncedNorms
from tolerances import FLOAT32, FLOAT64


def images(count=41):
    x = torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    return x + 3, (x.mean((1, 2, 3)) > 0).long()


def net_of(kind):
    torch.manual_seed(0)
    if kind == "images":
        momentum = [nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=None, affine=False)]
        body = [nn.Conv2d(2, 4, 3), momentum[0], nn.ReLU(), nn.Conv2d(4, 4, 1), momentum[1]]
    else:
        body = [nn.Conv2d(2, 4, 3), nn.Flatten(), nn.LazyBatchNorm1d(), nn.Unflatten(1, (4, 3, 3))]
    return nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(2)).double()


def trained(kind, world, **options):
    net = net_of(kind)
    x, y = images()
    with torch.no_grad():
        net.eval()(x[:2])
    net.train()
    model = KerasModel(net, nn.CrossEntropyLoss(), None, torch.optim.SGD(net.parameters(), 0.1))
    frame = model.fit(
        (x, y), (x, y), 3, batch_size=12 // world, seed=3, verbose=0, sync_batchnorm=True, **options
    )
    state = {name: value.clone() for name, value in net.state_dict().items()}
    return state, frame.drop(columns="seconds"), "forward" in vars(net[1])


@pytest.mark.parametrize("kind", ["images", "rows"])
def test_synced_norms_give_what_one_process_gives(several, kind):
    expected, table, _ = trained(kind, 1)
    for state, figures, patched in several.run(trained, kind, several.count):
        for name, value in expected.items():
            assert torch.allclose(state[name], value, **FLOAT64), name
        pd.testing.assert_frame_equal(figures, table, **FLOAT64)
        assert not patched


def test_norms_in_eval_mode_stay_frozen(two):
    frozen = two.run(train_frozen)
    assert all(frozen)


def train_frozen():
    net = net_of("images")
    x, y = images()
    net(x)
    net.train()
    net[1].eval()
    before = net[1].running_mean.clone()
    model = KerasModel(net, nn.CrossEntropyLoss())
    model.fit((x, y), epochs=1, batch_size=6, seed=3, verbose=0, sync_batchnorm=True)
    return torch.equal(net[1].running_mean, before)


def shard_of(x, rank, count):
    return x[rank * len(x) // count : (rank + 1) * len(x) // count]


def normalized(dtype, momentum):
    """Return what this process' part of a batch becomes, its gradient, and the statistics."""
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    norm = nn.BatchNorm1d(3, momentum=momentum)
    x = shard_of(wide_rows(), rank, count).to(dtype).requires_grad_()
    with SyncedNorms(nn.Sequential(norm)).applied():
        outputs = [norm(x), norm(x * 2)]
    (outputs[0].float() ** 3).sum().backward()
    return outputs, x.grad, norm.running_mean, norm.running_var


def wide_rows():
    """Many values whose squares add up to more than fp16 can hold."""
    return 30 * torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)) + 5


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_of_half_precision_do_not_overflow(two, dtype, momentum):
    norm = nn.BatchNorm1d(3, momentum=momentum)
    x = wide_rows().to(dtype).float().requires_grad_()  # the same numbers, in float32
    expected = [norm(x), norm(x * 2)]
    (expected[0].to(dtype).float() ** 3).sum().backward()
    results = two.run(normalized, dtype, momentum)
    rounding = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    for rank, (outputs, gradient, mean, variance) in enumerate(results):
        for output, whole in zip(outputs, expected, strict=True):
            assert output.dtype == dtype
            assert torch.allclose(output.float(), shard_of(whole, rank, 2), **rounding)
        slack = {"rtol": rounding["rtol"], "atol": 10 * rounding["atol"]}
        assert torch.allclose(gradient.float(), shard_of(x.grad, rank, 2), **slack)
        assert torch.allclose(mean, norm.running_mean, **FLOAT32)
        assert torch.allclose(variance, norm.running_var, **FLOAT32)
