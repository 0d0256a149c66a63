"""A step of several processes neither reads from a device nor copies numbers of the host to it.

The device is "meta": its tensors have no data, so reading one raises an error.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fitorch.distributed import sync_batchnorm
from fitorch.distributed.sync_batchnorm import SyncedNorms
from fitorch.distributed.update_totals import UpdateTotals
from fitorch.engine.steps.loss_weighting import LossWeighting
from fitorch.engine.steps.sync.ddp import DDPSync

META = torch.device("meta")


class NoCopies(TorchDispatchMode):
    """Refuses operations that take numbers of the host's memory to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        assert not (
            any(tensor.device == META for tensor in made) and any(tensor.is_cpu for tensor in taken)
        ), func
        return result


def test_the_modes_refuse_a_copy_and_the_device_a_read():
    with NoCopies(), pytest.raises(AssertionError):
        torch.as_tensor(3.0).to(META)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros((), device=META).item()


def scalar(**options):
    return torch.zeros((), device=META, **options)


def ddp_sync(scaler=None):
    sync = object.__new__(DDPSync)  # without a net that DDP would wrap
    sync._signal = torch.zeros(2, device=META, requires_grad=True) * 1.0
    sync._message = None, None
    sync._module = SimpleNamespace(signal=SimpleNamespace(grad=torch.zeros(2, device=META)))
    sync._update = SimpleNamespace(scaler=scaler, backward=lambda loss: loss.backward())
    return sync


@pytest.mark.parametrize("count", [3, 2.5, "tensor"])
def test_ddps_message_is_made_on_the_device(count, monkeypatch):
    count = scalar() if count == "tensor" else count
    # It would copy, by operations that are not dispatched.
    monkeypatch.setattr(torch.Tensor, "new_tensor", None, raising=False)
    sync = ddp_sync()
    with NoCopies():
        for request in (0.0, 1.0):
            assert sync._as_tensor(request, count).device == META


def test_ddps_message_has_the_request_and_the_count():
    sync = ddp_sync()
    sync._signal = torch.zeros(2, dtype=torch.float64)
    for request, count in ((1.0, 2.5), (0.0, 3), (0.0, torch.tensor(7.0)), (1.0, torch.tensor(2))):
        assert sync._as_tensor(request, count).tolist() == [request, float(count)]


def test_ddps_totals_are_unscaled_on_the_device():
    scaler = torch.amp.GradScaler("cpu")
    scaler._scale = scalar()
    assert ddp_sync(scaler).totals().device == META


@pytest.mark.parametrize("scale", [1.0, 4096.0])
def test_ddps_totals_are_what_was_sent(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.ones(()))
    sync = ddp_sync(scaler)
    sync._module.signal.grad = torch.tensor([0.5, 3.0]) * scale
    assert sync.totals().tolist() == [0.5, 3.0]


def weighting(differ, *summed):
    objective = SimpleNamespace(
        summed=[*summed], total=lambda parts: sum(value for value, _ in parts), name="losses"
    )
    made = LossWeighting(objective, SimpleNamespace(world_size=2), 1)
    made._differ, made.reference = differ, 4.0
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_terms_that_count_apart_are_weighted_on_the_device(dtype, monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor)
    value = scalar(dtype=dtype, requires_grad=True)
    with NoCopies():
        total, _ = weighting(True, False, False)([(value, 5), (value, scalar())], counts=True)
    assert total.device == META


def test_a_loss_with_a_count_on_the_device_is_weighted_there():
    with NoCopies():
        total, count = weighting(False, False)([(scalar(), scalar())], counts=True)
    assert total.device == count.device == META


def test_terms_of_half_precision_count_more_than_it_can_hold(monkeypatch):
    """Of 70,000 targets in each of two processes, fp16 would make infinitely many."""
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    values = [torch.tensor(value, dtype=torch.float16) for value in (3.0, 5.0)]
    total, _ = weighting(True, False, False)(
        [(values[0], 70_000), (values[1], torch.tensor(12))], counts=True
    )
    assert total.item() == 8.0  # each process has half of the targets; DDP then averages


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("counts", [True, False])
def test_batch_norms_are_synchronized_on_the_device(momentum, counts, monkeypatch):
    monkeypatch.setattr(sync_batchnorm, "all_reduce", lambda tensor: tensor * 2)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None, raising=False)
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum)).to(META)
    norms = SyncedNorms(net)
    norms.counts = counts
    with norms.applied(), NoCopies():
        net(torch.zeros(4, 3, 2, 2, device=META)).sum().backward()


def test_totals_of_an_update_are_added_up_on_the_device(monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor)
    totals = UpdateTotals(2)
    totals.reset()
    with NoCopies():
        totals.add(scalar(), 0.0, 3.0)
        totals.add(scalar(), 1.0, scalar())
        assert totals.averaged().device == META
