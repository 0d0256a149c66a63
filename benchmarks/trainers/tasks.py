"""What several peers are given: the loaders, the optimizer and torchmetrics' accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from workloads import Workload

Reported = dict[str, float]  # loss and accuracy in the names of fitorch, as far as reported


def loaders(workload: Workload) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return the DataLoaders of the usual loop, for training and validation."""
    train, val = TensorDataset(*workload.train), TensorDataset(*workload.val)
    size = workload.batch_size
    return DataLoader(train, batch_size=size, shuffle=True), DataLoader(val, batch_size=size)


def adam(workload: Workload) -> torch.optim.Adam:
    """Return the fused Adam of the best loop and of fitorch: the same update for every trainer."""
    return torch.optim.Adam(workload.net.parameters(), lr=workload.lr, fused=True)


def is_binary(workload: Workload) -> bool:
    """Say whether the targets are of shape (N, 1), 0 or 1, instead of class numbers."""
    return isinstance(workload.loss_fn, nn.BCEWithLogitsLoss)


def accuracy(workload: Workload) -> Any:
    """Return torchmetrics' accuracy for the workload's predictions."""
    from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

    if is_binary(workload):
        return BinaryAccuracy()
    return MulticlassAccuracy(num_classes=10, average="micro")
