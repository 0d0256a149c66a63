"""The four workloads of the benchmarks: data that can be learned, a net, a loss, a batch size.

Nothing here imports fitorch, and data is made without large temporaries, so that a process that
runs a hand-written loop shows the memory of that loop and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Arrays = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """One training task, the same for every contender.

    Args:
        train: Features and targets to train on.
        val: Features and targets to validate on after every epoch.
        batch_size: Samples a step, in training and validation.
        lr: Learning rate of Adam.
        net: The untrained net; each contender gets a copy.
        loss_fn: Mean loss of a batch.
        correct: Number of right predictions in a batch, as a tensor without dimensions.
    """

    train: Arrays
    val: Arrays
    batch_size: int
    lr: float
    net: nn.Module
    loss_fn: nn.Module
    correct: Callable[[Tensor, Tensor], Tensor]

    @property
    def steps(self) -> int:
        """Training steps in an epoch."""
        return math.ceil(len(self.train[0]) / self.batch_size)


def ring() -> Workload:
    """Tell two noisy rings apart with a 2-4-8-1 perceptron: next to no arithmetic, all overhead."""
    torch.manual_seed(0)
    positive = torch.rand(7000) < 0.5
    radius = torch.where(positive, 5.0, 8.0) + torch.randn(7000)
    angle = 2 * math.pi * torch.rand(7000)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    net = nn.Sequential(
        nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)
    )  # fmt: skip
    train, val = _split(x, positive.float().unsqueeze(1), 4900)
    return Workload(train, val, 100, 0.01, net, nn.BCEWithLogitsLoss(), _correct_binary)


def mlp() -> Workload:
    """Ten noisy classes in 784 dimensions with a 784-256-256-10 perceptron with dropout."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(256, 10),
    )  # fmt: skip
    train, val = _split(*_classes(14_000, (784,), 0.1), 12_000)
    return Workload(train, val, 256, 1e-3, net, nn.CrossEntropyLoss(), _correct_classes)


def cnn() -> Workload:
    """Ten classes of noisy 28x28 images with two convolutions and a linear layer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip
    train, val = _split(*_classes(5000, (1, 28, 28), 0.2), 4000)
    return Workload(train, val, 64, 1e-3, net, nn.CrossEntropyLoss(), _correct_classes)


def transformer() -> Workload:
    """Ten topics of 64-token sequences with a transformer encoder of two layers."""
    torch.manual_seed(0)
    y = torch.randint(10, (1200,))
    topic = 100 * y.unsqueeze(1) + torch.randint(100, (1200, 64))
    x = torch.where(torch.rand(1200, 64) < 0.2, topic, torch.randint(1000, (1200, 64)))
    train, val = _split(x, y, 1000)
    return Workload(train, val, 32, 3e-4, _Encoder(), nn.CrossEntropyLoss(), _correct_classes)


class _Encoder(nn.Module):
    """Token embedding, two encoder layers, mean over the sequence, linear output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.output = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `(N, 10)` for tokens `(N, L)`."""
        return self.output(self.encoder(self.embedding(tokens)).mean(dim=1))


def _classes(n: int, shape: tuple[int, ...], spread: float) -> Arrays:
    """Draw ten classes of unit noise around random centres, without a second copy of the data."""
    x, y = torch.randn(n, *shape), torch.randint(10, (n,))
    for label, centre in enumerate(spread * torch.randn(10, *shape)):
        x[y == label] += centre
    return x, y


def _split(x: Tensor, y: Tensor, n: int) -> tuple[Arrays, Arrays]:
    return (x[:n], y[:n]), (x[n:], y[n:])


def _correct_binary(logits: Tensor, y: Tensor) -> Tensor:
    return ((logits > 0) == y).sum()


def _correct_classes(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == y).sum()


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "ring": ring, "mlp": mlp, "cnn": cnn, "transformer": transformer,
}  # fmt: skip
