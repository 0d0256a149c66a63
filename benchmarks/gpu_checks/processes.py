"""Two processes with a GPU each, beside one."""

from __future__ import annotations

import torch
from torch import nn

from .common import Finding, check, features, fit, mlp, model, weights


@check(gpu=True)
def two_gpus_train_what_one_does() -> Finding:
    if torch.accelerator.device_count() < 2:
        return Finding(None, "one GPU")
    kinds = {
        "DDP": {},
        "fp16": {"mixed_precision": "fp16"},
        "batch norm": {"sync_batchnorm": True},
        "FSDP": {},
    }
    found = {}
    for name, options in kinds.items():
        norm = name == "batch norm"
        settings = {"fsdp": name == "FSDP", "metrics": {"acc": "acc", "auc": "auc", "f1": "f1"}}
        one, two = (model(mlp(norm=norm), optimizer=_sgd, **settings) for _ in range(2))
        train = {key: value for key, value in options.items() if key != "sync_batchnorm"}
        fit(one, features(), features(100), batch_size=64, **train)
        data = features(), features(100)
        two.fit_ddp(2, *data, epochs=2, batch_size=32, verbose=0, seed=1, **options)
        found[name] = (weights(one) - weights(two)).abs().max().item()
    listed = ", ".join(f"{name} {difference:.0e}" for name, difference in found.items())
    return Finding(max(found.values()) < 1e-2, f"weights apart: {listed}")


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1)
