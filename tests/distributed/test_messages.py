"""Messages between processes: tensors come from a device, and arrive on that of the receiver."""

import pickle

import pytest
import torch
from torch import nn

from fitorch.devices import messages
from fitorch.devices.messages import packed, unpacked
from fitorch.metrics import AUC, MetricSet, Precision

META = torch.device("meta")


@pytest.fixture
def remote(monkeypatch):
    """Tensors are taken for those of a device, as far as messages are concerned."""
    monkeypatch.setattr(
        messages,
        "is_host",
        lambda where: isinstance(where, torch.device) and where.type == "cpu",
    )


def value():
    shared = torch.arange(6.0).reshape(2, 3)
    return {
        "shared": [shared, shared],
        "transposed": shared.t(),
        "part": torch.randn(10_000, generator=torch.Generator().manual_seed(0))[3:7],
        "number": torch.tensor(7),
        "flag": torch.tensor(True),
        "wide": torch.tensor([0.1], dtype=torch.float64),
        "empty": torch.zeros(0, 2),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "graph": nn.Parameter(torch.ones(2)) * 2,
        "function": lambda x: x + 1,
        "text": "text",
    }


def check(received, device):
    sent = value()
    assert received["shared"][0] is received["shared"][1]
    assert received["function"](1) == 2
    assert received["text"] == "text"
    for name in sent.keys() - {"shared", "function", "text"}:
        assert received[name].device.type == device
        assert received[name].shape == sent[name].shape
        assert received[name].dtype == sent[name].dtype
        assert device == "meta" or torch.equal(received[name], sent[name])
    kinds = {name: type(received[name]) for name in ("parameter", "frozen", "number")}
    assert kinds == {"parameter": nn.Parameter, "frozen": nn.Parameter, "number": torch.Tensor}
    assert received["parameter"].requires_grad
    assert not received["frozen"].requires_grad


def test_tensors_of_a_device_arrive_in_the_hosts_memory(remote):
    check(unpacked(packed(value())), "cpu")


def test_tensors_of_a_device_arrive_on_that_of_the_receiver(remote):
    check(unpacked(packed(value()), META), "meta")


def test_tensors_of_the_host_stay_there():
    sent = {**value(), "graph": torch.ones(2)}
    data = packed(sent)
    for device in (torch.device("cpu"), META):
        received = unpacked(data, device)
        assert {t.device.type for t in received.values() if isinstance(t, torch.Tensor)} == {"cpu"}
        assert torch.equal(received["transposed"], sent["transposed"])


def test_a_message_of_many_tensors_is_as_long_as_they_are(remote):
    tensors = [torch.randn(1000) for _ in range(50)]
    assert len(packed(tensors)) < 2 * 50 * 4000
    assert len(packed(torch.zeros(100_000)[:10])) < 2000


def test_what_cannot_be_pickled_raises_its_error():
    with pytest.raises((TypeError, pickle.PicklingError)):
        packed([torch.ones(1), (n for n in range(3))])


def test_metrics_of_devices_are_merged(remote):
    """Each process has the batches of one device; the union is that of one process."""
    generator = torch.Generator().manual_seed(0)
    preds = [torch.randn(20, 1, generator=generator) for _ in range(4)]
    target = [(torch.rand(20, 1, generator=generator) < 0.5).float() for _ in range(4)]

    def made():
        named = {name: name for name in ("acc", "auc", "f1", "iou", "mae", "ks")}
        objects = {"a": AUC(), "p": Precision(), "bias": lambda p, t: (p - t).mean()}
        return MetricSet({**named, **objects}, torch.device("cpu"), lambda output: "logits")

    whole, parts = made(), [made(), made()]
    for number, batch in enumerate(zip(preds, target, strict=True)):
        whole.update(*batch)
        parts[number % 2].update(*batch)
    sent = []
    for part in parts:
        part.gathered(lambda data: sent.append(data) or [data])
    expected = whole.compute()
    for part in (*parts, made()):  # the last one is that of a process without a batch
        assert part.gathered(lambda _: sent).compute() == pytest.approx(expected, rel=1e-6)
