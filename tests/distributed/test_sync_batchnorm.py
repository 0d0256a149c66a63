"""sync_batchnorm: what one process gives on the batches of all, running statistics included."""

import pandas as pd
import pytest
import torch
from torch import nn

from fitorch import KerasModel
from tolerances import FLOAT64


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
