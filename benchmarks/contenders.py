"""The contenders: two loops written by hand and fitorch, given tensors or DataLoaders.

Each builds its own net, optimizer and data once and returns `run(epochs)`, which trains on from
where it stands, validates after every epoch and returns the last epoch's figures. All compute
the same: mean loss and accuracy, on training and validation samples.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import struct
import termios
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, TensorDataset
from workloads import Workload


class Figures(NamedTuple):
    """What a contender knows after an epoch: means over all samples of a stage."""

    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float


Run = Callable[[int], Figures]


def loader(workload: Workload) -> Run:
    """Build the usual loop: DataLoader, plain Adam, figures read from every batch."""
    net = copy.deepcopy(workload.net)
    loss_fn, correct = workload.loss_fn, workload.correct
    train, val = _loaders(workload)
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr)

    def train_epoch() -> tuple[float, float]:
        net.train()
        loss_sum, hits = 0.0, 0
        for x, y in train:
            optimizer.zero_grad()
            y_pred = net(x)
            loss = loss_fn(y_pred, y)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(x)
            hits += correct(y_pred, y).item()
        return loss_sum / len(train.dataset), hits / len(train.dataset)

    def validate() -> tuple[float, float]:
        net.eval()
        loss_sum, hits = 0.0, 0
        with torch.no_grad():
            for x, y in val:
                y_pred = net(x)
                loss_sum += loss_fn(y_pred, y).item() * len(x)
                hits += correct(y_pred, y).item()
        return loss_sum / len(val.dataset), hits / len(val.dataset)

    return lambda epochs: [Figures(*train_epoch(), *validate()) for _ in range(epochs)][-1]


def ceiling(workload: Workload) -> Run:
    """Build the best loop: gather by index, fused Adam, nothing read before the epoch ends."""
    net = copy.deepcopy(workload.net)
    loss_fn, correct, batch_size = workload.loss_fn, workload.correct, workload.batch_size
    (x_train, y_train), (x_val, y_val) = workload.train, workload.val
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)

    def train_epoch() -> tuple[float, float]:
        net.train()
        loss_sum, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for index in torch.randperm(len(x_train)).split(batch_size):
            x, y = x_train[index], y_train[index]
            y_pred = net(x)
            loss = loss_fn(y_pred, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss_sum += loss.detach() * len(x)
            hits += correct(y_pred.detach(), y)
        return loss_sum.item() / len(x_train), hits.item() / len(x_train)

    @torch.inference_mode()
    def validate() -> tuple[float, float]:
        net.eval()
        loss_sum, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for x, y in zip(x_val.split(batch_size), y_val.split(batch_size), strict=True):
            y_pred = net(x)
            loss_sum += loss_fn(y_pred, y) * len(x)
            hits += correct(y_pred, y)
        return loss_sum.item() / len(x_val), hits.item() / len(x_val)

    return lambda epochs: [Figures(*train_epoch(), *validate()) for _ in range(epochs)][-1]


def fitorch_tensors(workload: Workload) -> Run:
    """Build fitorch given the tensors themselves."""
    return _fitorch(workload, workload.train, workload.val, batch_size=workload.batch_size)


def fitorch_loader(workload: Workload) -> Run:
    """Build fitorch given the DataLoaders of the usual loop."""
    return _fitorch(workload, *_loaders(workload))


def fitorch_compiled(workload: Workload) -> Run:
    """Build fitorch given the tensors, with whole steps compiled by torch."""
    how = {"jit_compile": True}
    return _fitorch(workload, workload.train, workload.val, how, batch_size=workload.batch_size)


def _fitorch(
    workload: Workload,
    train: Any,
    val: Any,
    how: Mapping[str, bool] | None = None,
    **options: Any,
) -> Run:
    """Return one `fit` a run: its constant cost counts, and its display is on a terminal."""
    from fitorch import KerasModel

    net = copy.deepcopy(workload.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=workload.lr, fused=True)
    model = KerasModel(net, workload.loss_fn, {"acc": "acc"}, optimizer, **(how or {}))
    terminal = Terminal()

    def run(epochs: int) -> Figures:
        terminal.shown.clear()
        with contextlib.redirect_stdout(terminal.file):
            frame = model.fit(train, val, epochs=epochs, verbose=1, **options)
        if not terminal.shown.wait(timeout=1.0):
            message = "fit showed nothing on its terminal: its display was not measured"
            raise RuntimeError(message)
        return Figures(**{name: float(frame[name].iloc[-1]) for name in Figures._fields})

    return run


class Terminal:
    """A pseudo-terminal of 120 x 40 characters; a thread reads and forgets what is shown."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self.shown = threading.Event()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # the other end was closed
            while os.read(self._master, 65536):
                self.shown.set()


def _loaders(workload: Workload) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train, val = TensorDataset(*workload.train), TensorDataset(*workload.val)
    size = workload.batch_size
    return DataLoader(train, batch_size=size, shuffle=True), DataLoader(val, batch_size=size)


CONTENDERS: dict[str, Callable[[Workload], Run]] = {
    "loader": loader,
    "ceiling": ceiling,
    "fitorch": fitorch_tensors,
    "fitorch-loader": fitorch_loader,
}
