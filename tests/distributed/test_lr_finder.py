"""find_lr of several processes tries the rates of one, and leaves the model alone."""

import pytest
import torch
from torch import nn

from fitorch import KerasModel
from fitorch.distributed.fsdp import can_shard

sharded = pytest.mark.skipif(not can_shard(), reason="this torch can't shard nets")


def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def model_of(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return KerasModel(net, nn.CrossEntropyLoss(), {"acc": "acc"}, "adam", **options)


def found(folder, world=1, **options):
    """Return the frame, who drew it, and whether the weights are as before."""
    model = model_of(**options)
    before = [p.clone() for p in model.net.parameters()]
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    picture = folder / f"{rank}.png"
    frame = model.find_lr(data(), steps=30, batch_size=12 // world, seed=0, plot=picture)
    same = all(torch.equal(a, b) for a, b in zip(before, model.net.parameters(), strict=True))
    return frame.to_dict("list"), frame.attrs["suggestion"], picture.exists(), same


@pytest.mark.parametrize("fsdp", [False, pytest.param(True, marks=sharded)])
def test_the_rates_and_losses_are_those_of_one_process(two, tmp_path, fsdp):
    expected, suggestion, drawn, same = found(tmp_path)
    assert (drawn, same) == (True, True)
    (tmp_path / "two").mkdir()
    answers = two.run(found, tmp_path / "two", 2, fsdp=fsdp)
    for frame, suggested, _, same in answers:
        assert frame["lr"] == expected["lr"]
        assert frame["loss"] == pytest.approx(expected["loss"], rel=1e-9)
        assert suggested == pytest.approx(suggestion)
        assert same
    assert [drawn for _, _, drawn, _ in answers] == [True, False]


def behind_a_fit():
    model = model_of(fsdp=True)
    model.fit(data(), epochs=1, verbose=0)
    with pytest.raises(RuntimeError, match="call find_lr before the first fit"):
        model.find_lr(data(), steps=30)


@sharded
def test_a_net_that_is_spread_already_is_refused(two):
    two.run(behind_a_fit)
