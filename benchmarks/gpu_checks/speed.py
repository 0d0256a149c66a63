"""Memory and speed, beside loops by hand in the same run."""

from __future__ import annotations

import gc
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fitorch.callbacks import Callback

from .common import Finding, check, device, features, fit, mlp, model, synchronize


def _loop(net: nn.Module, loss_fn: Callable[..., Any], data: Any, batch: int) -> None:
    """Train for an epoch as the best loop by hand, which waits once."""
    x, y = (tensor.to(device()) for tensor in data)
    net.to(device()).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    total = torch.zeros((), device=device())
    for part in torch.randperm(len(x), device=device()).split(batch):
        loss = loss_fn(net(x.index_select(0, part)), y.index_select(0, part))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    total.item()


def _seconds(*runs: Callable[[], Any]) -> list[float]:
    """Return the shortest of three times of each run; the runs take turns."""
    best = [float("inf")] * len(runs)
    for _ in range(3):
        for number, run in enumerate(runs):
            synchronize()
            begin = time.perf_counter()
            run()
            synchronize()
            best[number] = min(best[number], time.perf_counter() - begin)
    return best


@check(gpu=True)
def memory_left_after_fits() -> Finding:
    data = features(65536)
    made = model(mlp(width=1024))
    left = []
    for _ in range(3):
        fit(made, data, data, epochs=1, batch_size=4096)
        gc.collect()
        left.append(torch.accelerator.memory_allocated() / 2**20)
    peak = torch.accelerator.max_memory_allocated() / 2**20
    listed = ", ".join(f"{size:.1f}" for size in left)
    return Finding(left[2] <= left[0] + 0.1, f"{listed} MB left after fits; peak {peak:.0f} MB")


@check(gpu=True)
def overhead_of_a_small_net() -> Finding:
    data = features(32 * 500)
    net = mlp(width=128)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "bare": (None, {}),
        "acc, auc": ({"acc": "acc", "auc": "auc"}, {}),
        "bf16": (None, {"mixed_precision": "bf16"}),
    }
    runs = [lambda: _loop(net, F.binary_cross_entropy_with_logits, data, 32)]
    for metrics, options in kinds.values():
        made = model(mlp(width=128), metrics=metrics)
        fit(made, data, epochs=1)
        runs.append(lambda made=made, options=options: fit(made, data, epochs=1, **options))
    by_hand, *taken = _seconds(*runs)
    told = [f"{name} {each / by_hand:.2f}" for name, each in zip(kinds, taken, strict=True)]
    text = f"a step by hand {by_hand / 500 * 1e6:.0f} us; ratios {', '.join(told)}"
    return Finding(taken[0] < 1.25 * by_hand, text)


@check(gpu=True)
def overhead_of_a_conv_net() -> Finding:
    data = torch.randn(2048, 3, 64, 64), torch.randint(0, 10, (2048,))

    def net() -> nn.Module:
        torch.manual_seed(0)
        parts: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1), nn.ReLU()]
        for _ in range(6):
            parts += [nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

    by_hand_net, made = net(), model(net(), "cross_entropy", {"acc": "acc"})
    _loop(by_hand_net, F.cross_entropy, data, 128)
    fit(made, data, epochs=1, batch_size=128)
    by_hand, ours = _seconds(
        lambda: _loop(by_hand_net, F.cross_entropy, data, 128),
        lambda: fit(made, data, epochs=1, batch_size=128),
    )
    text = f"ratio {ours / by_hand:.2f}; by hand {by_hand:.3f} s an epoch of 16 steps"
    return Finding(ours < 1.05 * by_hand, text)


@check(gpu=True)
def speed_of_predict() -> Finding:
    x = torch.randn(512 * 200, 20)
    made = model(mlp(width=128))
    fit(made, features(), epochs=1)
    net = made.net.eval()

    def by_hand() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([net(part) for part in x.to(device()).split(512)]).cpu()

    by_hand(), made.predict(x, batch_size=512, verbose=0)
    hand, ours = _seconds(by_hand, lambda: made.predict(x, batch_size=512, verbose=0))
    text = f"ratio {ours / hand:.2f}; by hand {hand * 1e3:.0f} ms for 200 batches"
    return Finding(ours < 1.5 * hand, text)


class Clock(Callback):
    """Notes when each batch begins."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        synchronize()
        self.times.append(time.perf_counter())


@check(gpu=True)
def pauses_of_checkpoints() -> Finding:
    layers = [nn.Linear(2048, 2048) for _ in range(24)]
    made = model(nn.Sequential(nn.Linear(20, 2048), *layers, nn.Linear(2048, 1)))
    size = 3 * sum(p.numel() for p in made.parameters()) * 4 / 2**30
    longest = []
    for background in (False, True):
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            saving = {"ckpt_path": folder, "save_every_n_steps": 3, "async_save": background}
            fit(made, features(32 * 6), epochs=1, callbacks=[clock], **saving)
        longest.append(max(b - a for a, b in zip(clock.times, clock.times[1:], strict=False)))
    text = f"{size:.1f} GiB: training stands {longest[0]:.2f} s, with async_save {longest[1]:.2f} s"
    return Finding(longest[1] < longest[0], text)


@check()
def compiled_steps() -> Finding:
    from torch._dynamo.utils import counters

    counters.clear()
    data = features(32 * 40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = [model(mlp(width=128)), model(mlp(width=128), jit_compile=True)]
        losses = []
        for each in made:
            frame = each.fit(
                data, epochs=2, batch_size=32, verbose=0, seed=1, cpu=device() == "cpu"
            )
            losses.append(frame["train_loss"].tolist())
    said = [str(warning.message) for warning in caught if "compil" in str(warning.message)]
    if said:
        return Finding(None, said[0][:150])
    skips = counters["inductor"].get("cudagraph_skips", 0)
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    text = f"{difference:.0e} apart; CUDA graphs left out {skips} times"
    if device() != "cpu":
        more = features(32 * 200)
        runs = [lambda each=each: fit(each, more, epochs=1) for each in made]
        plain, compiled = _seconds(*runs)
        text += f"; ratio of a compiled step {compiled / plain:.2f}"
    return Finding(difference < 1e-3 and not skips, text)
