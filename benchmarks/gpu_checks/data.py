"""The ways of data to the device."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from .common import Finding, Samples, apart, check, device, features, fit, model, weights


@check(gpu=True)
def data_on_the_gpu_already() -> Finding:
    wrong = []
    x, y = (tensor.to(device()) for tensor in features())
    kinds = {
        "tensors": (x, y),
        "TensorDataset": TensorDataset(x, y),
        "Dataset": Samples(where=device()),
        "DataLoader": DataLoader(Samples(where=device()), 32),
        "batches": [(x[i : i + 32], y[i : i + 32]) for i in range(0, 512, 32)],
    }
    expected = fit(model(), features(), epochs=1, shuffle=False)
    for name, data in kinds.items():
        found = fit(model(), data, epochs=1, shuffle=False)
        if apart(expected, found) > 1e-5:
            wrong.append(name)
    return Finding(not wrong, f"differ: {', '.join(wrong)}" if wrong else ", ".join(kinds))


@check(gpu=True)
def default_device_is_the_gpu() -> Finding:
    expected = fit(model(), features())
    torch.set_default_device(device())
    try:
        data = torch.randn(512, 20), torch.ones(512, 1)
        fit(model(), data, epochs=1)
        fit(model(), DataLoader(TensorDataset(*data), 32), epochs=1)
        torch.set_default_device(None)
        data = features()
        torch.set_default_device(device())
        found = fit(model(), data)
        made = model()
        made.predict(data[0], verbose=0)
    finally:
        torch.set_default_device(None)
    return Finding(len(found) == len(expected), "fit and predict")


@check(gpu=True)
def pinned_batches_have_the_same_bits() -> Finding:
    """Data that does not move as a whole: pinned buffers, copied while the device computes."""
    x = torch.randn(4096, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 10, (4096,), generator=torch.Generator().manual_seed(1))
    found = []
    for data_on_device in (True, False):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        made = model(net, "cross_entropy", data_on_device=data_on_device)
        figures = fit(made, (x, y), batch_size=256, deterministic=True)
        found.append((figures, weights(made)))
    (resident, kept), (sent, moved) = found
    difference = (kept - moved).abs().max()
    right = torch.equal(kept, moved) and resident == sent
    return Finding(right, f"weights {difference:.1e} apart after 32 steps")


@check(gpu=True)
def workers_and_pinning() -> Finding:
    kinds = {
        "2 workers": (Samples(2048), {"num_workers": 2}),
        "loader": (DataLoader(Samples(2048), 32), {}),
        "loader, 2 workers, pinned": (
            DataLoader(Samples(2048), 32, num_workers=2, pin_memory=True),
            {},
        ),
    }
    base = fit(model(), Samples(2048), shuffle=False)
    found = {
        name: apart(base, fit(model(), data, shuffle=False, **options))
        for name, (data, options) in kinds.items()
    }
    listed = ", ".join(f"{name} {difference:.0e}" for name, difference in found.items())
    return Finding(not any(found.values()), listed)
