"""Waits for the device: each of them stalls it."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fitorch import KerasModel
from fitorch.callbacks import EMA, GradientNorm
from fitorch.losses import L2

from .common import Finding, Samples, check, features, fit, mlp, model, on_cuda

STEPS = 32, 96


class Waits:
    """Counts what torch calls synchronizing operations, by the place in fitorch."""

    def __enter__(self) -> Waits:
        self.found: Counter[str] = Counter()
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message=".*synchronizing CUDA operation.*")
        warnings.showwarning = lambda message, *_rest, **_options: self._note(str(message))
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(kind, error, at)

    def _note(self, message: str) -> None:
        if "synchronizing" not in message:
            return
        frame, places = sys._getframe(2), []
        while frame is not None and len(places) < 2:
            name = frame.f_code.co_filename
            if "fitorch" in frame.f_globals.get("__name__", ""):
                places.append(f"{name.rpartition('/')[2]}:{frame.f_lineno}")
            frame = frame.f_back
        self.found[" < ".join(places) or "elsewhere"] += 1


def waits_per_step(run: Callable[[int], None]) -> dict[str, float]:
    """Return the waits that further steps cost, by place."""
    counts = []
    for steps in STEPS:
        with Waits() as waits:
            run(32 * steps)
        counts.append(waits.found)
    more = counts[1] - counts[0]
    return {place: count / (STEPS[1] - STEPS[0]) for place, count in more.items()}


def _scheduled() -> KerasModel:
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=10**6)
    return KerasModel(net, "bce_with_logits", None, optimizer, schedule)


@cache
def _trained() -> KerasModel:
    made = model()
    fit(made, features(), epochs=1)
    return made


def _train(
    make: Callable[[], KerasModel], data: Callable[[int], Any] = features, **options: Any
) -> Any:
    return lambda n: fit(make(), data(n), epochs=1, **options)


def _predict(n: int) -> None:
    _trained().predict(features(n)[0], batch_size=32, verbose=0)


def _evaluate(n: int) -> None:
    _trained().evaluate(features(n), batch_size=32, verbose=0)


# What may wait, in waits a step: torch's scaler asks whether the gradients overflowed.
ALLOWED = {"fp16": 1.0, "fp16, schedule": 1.0}

CASES: dict[str, Callable[[int], None]] = {
    "bare": _train(model),
    "acc, auc": _train(lambda: model(metrics={"acc": "acc", "auc": "auc"})),
    "EMA": _train(model, callbacks=[EMA()]),
    "GradientNorm": _train(model, callbacks=[GradientNorm()]),
    "clipping": _train(model, clip_grad_norm=1.0),
    "penalties": _train(lambda: model(loss=nn.BCEWithLogitsLoss() + 0.01 * L2())),
    "class_weight": _train(model, class_weight={0: 1.0, 1: 2.0}),
    "accumulation": _train(model, gradient_accumulation_steps=4),
    "ignore_index": _train(
        lambda: model(mlp(3), nn.CrossEntropyLoss(ignore_index=1)), lambda n: features(n, 3)
    ),
    "Dataset": _train(model, Samples),
    "DataLoader": _train(model, lambda n: DataLoader(Samples(n), 32)),
    "DataLoader, pinned": _train(model, lambda n: DataLoader(Samples(n), 32, pin_memory=True)),
    "data_on_device=False": _train(lambda: model(data_on_device=False)),
    "bf16": _train(model, mixed_precision="bf16"),
    "fp16": _train(model, mixed_precision="fp16"),
    "fp16, schedule": _train(_scheduled, mixed_precision="fp16"),
    "predict": _predict,
    "evaluate": _evaluate,
}


@check(gpu=True)
def nothing_waits_in_a_step() -> Finding:
    if not on_cuda():
        return Finding(None, "torch tells of waits for CUDA alone")
    fit(model(), features(), epochs=1)  # once, so that everything is imported
    told = []
    for name, run in CASES.items():
        found = waits_per_step(run)
        total = sum(found.values())
        if total > ALLOWED.get(name, 0.0) + 0.05:
            places = sorted(found, key=lambda place: found[place])[-2:]
            told.append(f"{name}: {total:.2f} a step ({', '.join(places)})")
    return Finding(not told, "; ".join(told) or f"as allowed in {len(CASES)} kinds of steps")
