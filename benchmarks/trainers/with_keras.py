"""Keras on its torch backend: layers of its own, with the weights of the workload's net."""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
from contenders import Run
from torch import Tensor, nn
from workloads import Workload

from .tasks import Reported, is_binary


def build(workload: Workload) -> Run:
    """Build `compile` and `fit`; after each run the weights go back to the workload's net."""
    model = _model(workload)
    (x, y), val = (_numpy(part) for part in (workload.train, workload.val))

    def run(epochs: int) -> Reported:
        history = model.fit(
            x, y, workload.batch_size, epochs, verbose=0, validation_data=tuple(val)
        ).history
        _copy_back(model, workload.net)
        names = {"loss": "train_loss", "acc": "train_acc", "val_loss": "val_loss"}
        return {ours: history[name][-1] for name, ours in (names | {"val_acc": "val_acc"}).items()}

    return run


def _numpy(part: tuple[Tensor, ...]) -> list[Any]:
    return [tensor.numpy() for tensor in part]


def _model(workload: Workload) -> Any:
    model = keras.Sequential([_layer(module) for module in workload.net])
    model.build((None, workload.train[0].shape[1]))
    model.set_weights(
        [p.detach().numpy().T for p in workload.net.parameters()]  # a Dense kernel is (in, out)
    )
    if is_binary(workload):
        loss, metric = keras.losses.BinaryCrossentropy, keras.metrics.BinaryAccuracy(threshold=0.0)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy
        metric = keras.metrics.SparseCategoricalAccuracy()
    metric.name = "acc"
    adam = keras.optimizers.Adam(workload.lr, epsilon=1e-8)  # torch's epsilon
    model.compile(adam, loss(from_logits=True), metrics=[metric])
    return model


def _layer(module: nn.Module) -> Any:
    """Return Keras' layer for a layer of torch."""
    if isinstance(module, nn.Linear):
        return keras.layers.Dense(module.out_features)
    if isinstance(module, nn.Dropout):
        return keras.layers.Dropout(module.p)
    return keras.layers.ReLU()


def _copy_back(model: Any, net: nn.Module) -> None:
    for parameter, weight in zip(net.parameters(), model.get_weights(), strict=True):
        parameter.data.copy_(parameter.data.new_tensor(weight.T))
