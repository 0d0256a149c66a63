"""Fits that are stopped within an epoch and resumed, and the random generators."""

from __future__ import annotations

import contextlib
import tempfile
from typing import Any

import torch

from fitorch.callbacks import EMA, Callback, GradientNorm

from .common import Finding, apart, check, child, device, features, fit, mlp, model, weights

METRICS = {"acc": "acc", "auc": "auc"}


class StopAt(Callback):
    """Interrupts training after an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.updates == self.update:
            raise KeyboardInterrupt


def _resumed(callbacks: Any = list, *, async_save: bool = False, **options: Any) -> Finding:
    """Compare a fit that is stopped in its second epoch and resumed with one that is not."""
    data, val = features(), features(100)
    options = {"epochs": 3, "deterministic": True, **options}
    whole = model(mlp(dropout=0.3), metrics=METRICS)
    expected = fit(whole, data, val, callbacks=callbacks(), **options)
    with tempfile.TemporaryDirectory() as folder:
        saving = {"ckpt_path": folder, "save_every_n_steps": 3, "async_save": async_save}
        with contextlib.suppress(KeyboardInterrupt):
            stopped = model(mlp(dropout=0.3), metrics=METRICS)
            fit(stopped, data, val, callbacks=[*callbacks(), StopAt(22)], **saving, **options)
        torch.randn(5, device=device())  # another draw must not matter
        resumed = model(mlp(dropout=0.3), metrics=METRICS)
        found = fit(resumed, data, val, callbacks=callbacks(), resume=True, **saving, **options)
    difference = (weights(whole) - weights(resumed)).abs().max()
    right = difference == 0 and apart(expected, found) == 0
    return Finding(right, f"weights {difference:.1e}, figures {apart(expected, found):.1e} apart")


@check()
def resume_within_an_epoch() -> Finding:
    return _resumed()


@check()
def resume_with_ema_and_async_save() -> Finding:
    return _resumed(lambda: [EMA(0.9), GradientNorm()], async_save=True)


@check()
def resume_fp16_with_accumulation() -> Finding:
    return _resumed(mixed_precision="fp16", gradient_accumulation_steps=2)


@check(gpu=True)
def checkpoint_moves_between_gpu_and_cpu() -> Finding:
    data = features()
    whole = fit(model(metrics={"acc": "acc"}), data, epochs=3)
    found = {}
    for name, first, second in (("to the CPU", False, True), ("to the GPU", True, False)):
        with tempfile.TemporaryDirectory() as folder:
            saving = {"ckpt_path": folder, "save_every_n_steps": 3, "epochs": 3}
            with contextlib.suppress(KeyboardInterrupt):
                fit(
                    model(metrics={"acc": "acc"}), data, cpu=first, callbacks=[StopAt(22)], **saving
                )
            again = fit(model(metrics={"acc": "acc"}), data, cpu=second, resume=True, **saving)
        found[name] = apart(whole, again)
    listed = ", ".join(f"{name} {difference:.0e}" for name, difference in found.items())
    return Finding(max(found.values()) < 1e-2, listed)


@check(gpu=True)
def random_numbers_are_put_back() -> Finding:
    torch.manual_seed(5)
    expected = torch.rand(3, device=device())
    torch.manual_seed(5)
    fit(model(mlp(dropout=0.5)), features(), epochs=1)
    running = torch.equal(torch.rand(3, device=device()), expected)
    printed = child(
        "import torch; torch.manual_seed(5)\n"
        "from gpu_checks.common import device, features, fit, mlp, model\n"
        "fit(model(mlp(dropout=0.5)), features(), epochs=1)\n"
        "print(*torch.rand(3, device=device()).tolist())"
    )
    numbers = map(float, printed.splitlines()[-1].split())
    started = all(abs(a - b) < 1e-6 for a, b in zip(numbers, expected.tolist(), strict=True))
    return Finding(running and started, f"running before: {running}; started by fit: {started}")
