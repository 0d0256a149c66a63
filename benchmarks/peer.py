"""Measure one contender of peers.py in this process, and print what was found as JSON.

    python benchmarks/peer.py lightning ring 100

README.md beside this file says what the figures mean.
"""
# ruff: noqa: E402

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import torch

_TORCH_IMPORTED = time.perf_counter()

import argparse
import gc
import importlib
import json
import os
import sys
import warnings
from typing import Any

from overhead import peak_megabytes, prepare_process
from trainers import PEERS
from workloads import WORKLOADS, Arrays, Workload


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("epochs", type=int)
    arguments = parser.parse_args()
    answer = os.dup(1)
    os.dup2(2, 1)  # what a trainer prints must not mix with the answer
    prepare_process()
    found = measure(arguments.peer, WORKLOADS[arguments.workload](), arguments.epochs)
    with os.fdopen(answer, "w") as stream:
        print(json.dumps(found), file=stream)


def measure(name: str, workload: Workload, epochs: int) -> dict[str, Any]:
    """Import a contender, train an epoch to warm up, then train and time the others in one call."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Contenders copy the net that they are given; this one is looked at after training.
    workload.net.__dict__["__deepcopy__"] = lambda _memo: workload.net
    peer = PEERS[name]
    before = time.perf_counter()
    module = importlib.import_module(f"trainers.{peer.module}")
    import_seconds = time.perf_counter() - before
    untrained = figures_of(workload)
    began = time.perf_counter()
    run = getattr(module, peer.build)(workload)
    run(1)
    first = time.perf_counter() - began
    gc.collect()  # of what importing and the first epoch left
    began, cpu_began = time.perf_counter(), time.process_time()
    reported = run(epochs)
    cpu_seconds, seconds = time.process_time() - cpu_began, time.perf_counter() - began
    named = reported._asdict() if hasattr(reported, "_asdict") else reported
    return {
        "microseconds": 1e6 * seconds / (epochs * workload.steps),
        "cpu_microseconds": 1e6 * cpu_seconds / (epochs * workload.steps),
        "torch_seconds": _TORCH_IMPORTED - _BEGAN,
        "import_seconds": import_seconds,
        "first_epoch_seconds": first,
        "peak_megabytes": peak_megabytes(),
        "threads": torch.get_num_threads(),
        "untrained": untrained,
        "trained": figures_of(workload),
        "reported": {key: float(value) for key, value in named.items()},
    }


def figures_of(workload: Workload) -> dict[str, float]:
    """Return loss and accuracy of the net as it is now, over all samples, in eval mode."""
    net, modes = workload.net, [module.training for module in workload.net.modules()]
    net.eval()
    figures = {
        f"{stage}_{key}": value
        for stage, arrays in (("train", workload.train), ("val", workload.val))
        for key, value in _measured(workload, arrays).items()
    }
    for module, mode in zip(net.modules(), modes, strict=True):
        module.training = mode
    return figures


@torch.no_grad()
def _measured(workload: Workload, arrays: Arrays) -> dict[str, float]:
    loss = hits = 0.0
    for x, y in zip(*(tensor.split(workload.batch_size) for tensor in arrays), strict=True):
        y_pred = workload.net(x)
        loss += workload.loss_fn(y_pred, y).item() * len(x)
        hits += workload.correct(y_pred, y).item()
    return {"loss": loss / len(arrays[0]), "acc": hits / len(arrays[0])}


if __name__ == "__main__":
    main()
