"""What goes wrong on a device: NaN, classes out of range, memory."""

from __future__ import annotations

import gc

import torch
from torch import nn

from fitorch import NonFiniteError

from .common import Finding, check, child, device, features, fit, mlp, model, on_cuda


@check()
def nan_names_its_batch() -> Finding:
    x, y = features(32 * 100)
    x[32 * 3] = float("nan")
    made = model(mlp(norm=False))
    try:
        fit(made, (x, y), shuffle=False, epochs=1)
    except NonFiniteError as error:
        right = "batch 4 " in str(error) and "samples [96, 97, 98]" in str(error)
        return Finding(right, f"after {made.updates} of 100 updates: {str(error)[:110]}")
    return Finding(False, "no error")


@check(gpu=True)
def class_out_of_range_is_explained() -> Finding:
    said = child(
        "from gpu_checks.common import Samples, fit, mlp, model\n"
        "data = Samples(classes=3, bad=300)\n"
        "fit(model(mlp(3), 'cross_entropy'), data, epochs=1, shuffle=False)",
        fails=True,
    )
    line = (said.strip().splitlines() or [""])[-1]
    return Finding("class" in line and "1000" in line, line[-160:])


class Greedy(nn.Module):
    """A net that asks for 4 TiB as long as it is greedy."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.greedy = mlp(), True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.greedy:
            torch.empty(1 << 42, dtype=torch.uint8, device=x.device)
        return self.net(x)


@check(gpu=True)
def out_of_memory_is_survived() -> Finding:
    net, said = Greedy(), ""
    made = model(net)
    try:
        fit(made, features())
    except torch.OutOfMemoryError as error:
        said = " ".join(getattr(error, "__notes__", ()))[-150:]
    gc.collect()
    net.greedy = False
    fit(made, features())
    return Finding("batch_size" in said, said)


class Wide(nn.Module):
    """A net that takes a number of bytes in each step."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.net, self.size = nn.Linear(1024, 1), size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(self.size, dtype=torch.uint8, device=x.device)
        return self.net(x)


@check(gpu=True)
def data_leaves_room_for_the_net() -> Finding:
    """A net that needs 65 % of the memory trains beside data of 45 %, which then stays outside."""
    if not on_cuda():
        return Finding(None, "torch limits the memory of CUDA devices alone")
    cap = 4 << 30
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total))
    ask = torch.cuda.mem_get_info
    torch.cuda.mem_get_info = lambda device=None: (cap - torch.cuda.memory_reserved(), cap)
    try:
        x = torch.zeros(int(cap * 0.45 / 4096), 1024)
        torch.cuda.empty_cache()
        options = {"epochs": 3, "batch_size": 4096, "steps_per_epoch": 60}
        fit(model(Wide(int(cap * 0.65)), "mse"), (x, x[:, :1]), **options)
        return Finding(True, f"trains on {device()}")
    except torch.OutOfMemoryError:
        return Finding(False, "out of memory; batch by batch it would train")
    finally:
        torch.cuda.mem_get_info = ask
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
