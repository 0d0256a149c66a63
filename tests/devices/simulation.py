"""Scenarios: the simulated device does what it is said to do."""

import copy
import pickle

import pytest
import torch
from torch import nn

from devices.problems import DEVICE, OTHER, check_same
from devices.scenarios import Scenarios

SCENARIOS = Scenarios()


def _sent_on_a_side_stream(buffer):
    """Return the copy of a pinned buffer, and the event of its end."""
    stream = torch.far.Stream(DEVICE)
    with torch.far.stream(stream):
        return buffer.to(DEVICE, non_blocking=True), stream.record_event()


@SCENARIOS.add
def devices_cannot_be_mixed():
    for other in (torch.ones(2), torch.ones(2, device=OTHER)):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            _ = torch.ones(2, device=DEVICE) + other
    check_same((torch.ones(2, device=DEVICE) * torch.tensor(2.0)).cpu(), torch.full((2,), 2.0))


@SCENARIOS.add
def a_copy_arrives_when_its_event_is_waited_for():
    sent, event = _sent_on_a_side_stream(torch.ones(3).pin_memory())
    assert sent.sum().isnan().item()  # used without waiting
    torch.far.current_stream(DEVICE).wait_event(event)
    check_same(sent.cpu(), torch.ones(3))


@SCENARIOS.add
def a_buffer_that_is_changed_too_early_arrives_changed():
    buffer = torch.ones(3).pin_memory()
    sent, event = _sent_on_a_side_stream(buffer)
    buffer.fill_(7.0)
    event.synchronize()
    check_same(sent.cpu(), torch.full((3,), 7.0))


@SCENARIOS.add
def a_copy_to_the_host_arrives_when_its_stream_is_waited_for():
    target = torch.zeros(3).pin_memory()
    source = torch.ones(3, device=DEVICE)
    target.copy_(source, non_blocking=True)
    source.fill_(5.0)  # behind the copy, in the order of the stream
    assert target.isnan().all()
    torch.far.synchronize(DEVICE)
    check_same(target, torch.ones(3))


@SCENARIOS.add
def waits_are_counted_by_kind():
    import simulated_device

    x = torch.ones(3, device=DEVICE)
    with simulated_device.counted() as waits:
        x.sum().item()
        x.tolist()
        x[x > 0]
        x.cpu()
        torch.ones(3).to(DEVICE)
        torch.ones(3).to(DEVICE, non_blocking=True)
        torch.ones(3).pin_memory().to(DEVICE, non_blocking=True)
        x.mul_(2).add_(torch.tensor(1.0)).clamp_(0)
    kinds = [wait.kind for wait in waits]
    assert kinds == ["read"] * 3 + ["copy to host", "copy to device", "staged"], kinds


@SCENARIOS.add
def waits_are_counted_with_the_line_of_fitorch():
    import simulated_device
    from fitorch.devices.copies import to_host

    with simulated_device.counted() as waits:
        to_host([torch.ones(3, device=DEVICE)])
    assert [wait.place.split(":")[0] for wait in waits] == ["devices/copies.py"], waits


@SCENARIOS.add
def each_device_has_its_own_random_numbers():
    torch.manual_seed(3)
    first = torch.rand(4, device=DEVICE)
    on_host = torch.rand(4)
    check_same(torch.rand(4, device=OTHER).cpu(), first.cpu())
    check_same(on_host, first.cpu())
    state = torch.far.get_rng_state(DEVICE)
    second = torch.rand(4, device=DEVICE)
    torch.far.set_rng_state(state, DEVICE)
    check_same(torch.rand(4, device=DEVICE).cpu(), second.cpu())
    assert not torch.equal(first.cpu(), second.cpu())


@SCENARIOS.add
def memory_is_as_it_was_set():
    import simulated_device

    simulated_device.memory(OTHER).free = 5
    assert torch.far.mem_get_info(torch.device(OTHER))[0] == 5
    simulated_device.memory(OTHER).largest = 100
    torch.ones(25, device=OTHER)
    with pytest.raises(torch.OutOfMemoryError, match=OTHER):
        torch.ones(26, device=OTHER)
    torch.ones(26, device=DEVICE)


@SCENARIOS.add
def pinned_memory_is_known():
    pinned = torch.ones(3).pin_memory()
    assert pinned.is_pinned()
    assert pinned[1:].is_pinned()
    assert torch.empty(3, pin_memory=True).is_pinned()
    assert not torch.ones(3).is_pinned()
    assert not torch.ones(3, device=DEVICE).is_pinned()
    with pytest.raises(RuntimeError, match="cannot pin"):
        torch.ones(3, device=DEVICE).pin_memory()


@SCENARIOS.add_each("the current device in a block of", {"torch.far": DEVICE, "the other": OTHER})
def _current(device):
    with torch.far.device(device):
        assert torch.ones(1, device="far").device == torch.device(device)
        assert torch.far.current_device() == torch.device(device).index
    assert torch.far.current_device() == 0


@SCENARIOS.add_each("a net on", {"the device": DEVICE, "the other device": OTHER})
def _net(device):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    expected = copy.deepcopy(net)
    torch.__future__.set_swap_module_params_on_conversion(True)
    net.to(device)
    torch.__future__.set_swap_module_params_on_conversion(False)
    x = torch.randn(5, 3)
    for each, place in ((net, device), (expected, "cpu")):
        optimizer = torch.optim.Adam(each.parameters(), fused=True)
        each(x.to(place)).sum().backward()
        nn.utils.clip_grad_norm_(each.parameters(), 0.1)
        optimizer.step()
    for made in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert {str(p.device) for p in made.parameters()} == {device}
        found = {name: tensor.cpu() for name, tensor in made.state_dict().items()}
        check_same(found, dict(expected.state_dict()))


@SCENARIOS.add
def tensors_move_between_the_devices():
    x = torch.ones(2, device=OTHER)
    assert x.to(OTHER) is x
    moved = x.to(DEVICE)
    assert moved.device == torch.device(DEVICE)
    check_same((moved * 3).cpu(), torch.full((2,), 3.0))
    with pytest.raises(TypeError, match="can't convert far:1 device type tensor to numpy"):
        x.numpy()
