"""Measure what a metric costs: `fit` on the ring with and without one, and called batch by batch.

    python benchmarks/metrics.py

Each turn trains every contender for a few epochs, on one thread; what a metric costs is the time of
a step with it less that of a step without, in medians over the turns.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC
from workloads import Workload, ring

from fitorch import KerasModel
from fitorch.metrics import AUC, KS, Accuracy, Precision

METRICS: dict[str, Any] = {
    "none": None,
    '"acc"': "acc",
    "Accuracy()": Accuracy(),
    "Precision()": Precision(),
    "AUC()": AUC(),
    "AUC(thresholds=1000)": AUC(thresholds=1000),
    "torchmetrics BinaryAccuracy()": BinaryAccuracy(),
    "torchmetrics BinaryAUROC()": BinaryAUROC(),
}


def in_fit(work: Workload, metric: Any) -> Callable[..., Any]:
    """Return what trains for some epochs."""
    net = copy.deepcopy(work.net)
    metrics = {} if metric is None else {"m": metric}
    model = KerasModel(net, work.loss_fn, metrics, "adam")
    return partial(model.fit, work.train, None, batch_size=work.batch_size, verbose=0)


def batch_by_batch(y: Tensor, batch_size: int) -> float:
    """Return the seconds that torchmetrics takes for a batch, called as its documents say."""
    metric, preds = BinaryAccuracy(), torch.randn_like(y)
    batches = list(zip(preds.split(batch_size), y.split(batch_size), strict=True))
    began = time.perf_counter()
    for batch in batches:
        metric.update(*batch)
    return (time.perf_counter() - began) / len(batches)


def compute_time(kind: type, samples: int = 20_000) -> float:
    """Return the seconds that `compute` takes."""
    scores, target = torch.randn(samples), (torch.rand(samples) < 0.3).long()
    times = []
    for _ in range(7):
        metric = kind()
        metric.update(scores, target)
        began = time.perf_counter()
        metric.compute()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = ring()
    y = work.train[1]
    contenders = {name: in_fit(work, metric) for name, metric in METRICS.items()}
    steps = -(-len(y) // work.batch_size) * arguments.epochs
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    by_hand = []
    for turn in range(arguments.turns + 1):
        by_hand.append(batch_by_batch(y, work.batch_size))
        for name, run in contenders.items():
            began = time.perf_counter()
            run(epochs=arguments.epochs)
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - began) / steps)
    medians = {name: 1e6 * statistics.median(times) for name, times in seconds.items()}
    bare = medians["none"]
    print("| metric in fit, ring | us a step | adds us | of a step |\n|---|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.0f} | {median - bare:.0f} | {(median - bare) / bare:.0%} |")
    print(f"\ntorchmetrics called per batch: {1e6 * statistics.median(by_hand):.0f} us.")
    for kind in (AUC, KS):
        print(f"{kind.__name__}().compute() of 20,000 samples: {1e3 * compute_time(kind):.1f} ms.")


if __name__ == "__main__":
    main()
