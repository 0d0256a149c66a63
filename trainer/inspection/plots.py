"""Evaluation plots of a model: confusion matrix, ROC curves and residuals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST
from fitorch.errors import DataError
from fitorch.plotting.axes import new_figure, save_figure
from fitorch.plotting.evaluation_plots import (
    draw_chance,
    draw_curve,
    draw_histogram,
    draw_matrix,
    draw_scatter,
)
from fitorch.tree import describe

from .predictions import PairReader, Pairs, one_vs_rest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fitorch.engine.base_model import BaseModel


_NORMALIZE = (None, "true", "pred", "all")

_TARGETS = 6  # the largest number of targets


def plot_confusion_matrix(
    model: BaseModel,
    data: Any,
    labels: Sequence[Any] | None,
    normalize: str | None,
    path: str | Path | None,
    **reading: Any,
) -> Figure:
    """Plot the confusion matrix; see `KerasModel.plot_confusion_matrix`."""
    if normalize not in _NORMALIZE:
        message = f"normalize={normalize!r}; expected one of {_NORMALIZE}"
        raise ValueError(message)
    counts = _confusion(PairReader(model, "plot_confusion_matrix", reading).over(data))
    names = _class_names(labels, len(counts))
    size = min(14.0, max(4.6, 1.8 + 0.5 * len(counts)))  # inches
    cell = 72 * (size - 1.8) / len(counts)  # points
    figure = new_figure(size, size)
    draw_matrix(figure.add_subplot(), counts, names, normalize, cell)
    return save_figure(figure, path)


def plot_roc(
    model: BaseModel,
    data: Any,
    labels: Sequence[Any] | None,
    path: str | Path | None,
    **reading: Any,
) -> Figure:
    """Plot the ROC curve of each class; see `KerasModel.plot_roc`."""
    reader = PairReader(model, "plot_roc", reading).over(data)
    pairs = reader.all()
    task = reader.task(pairs, "binary", "multiclass", "multilabel")
    scores, positive, weight = one_vs_rest(task, pairs, reader.scale, reader.ignored)
    if scores.isnan().any():
        message = "predictions contain NaN, so that plot_roc cannot rank them; check the model"
        raise ValueError(message)
    # A binary task has scores for the second class only.
    names = _class_names(labels, max(2, task.size))[-scores.shape[1] :]
    figure = new_figure(5.6, 5.4)
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        label = name if task.kind != "binary" or labels is not None else ""
        draw_curve(axes, scores[:, number], positive[:, number], weight, number, label)
    draw_chance(
        axes,
        {"binary": "ROC curve", "multilabel": "ROC curve of each label"}.get(
            task.kind, "ROC curve of each class against the rest"
        ),
    )
    return save_figure(figure, path)


def plot_residuals(
    model: BaseModel,
    data: Any,
    labels: Sequence[Any] | None,
    path: str | Path | None,
    **reading: Any,
) -> Figure:
    """Plot predictions over targets, and the residuals; see `KerasModel.plot_residuals`."""
    reader = PairReader(model, "plot_residuals", reading).over(data)
    pairs = reader.all()
    reader.task(pairs, "regression")
    # Residuals of float32 would lose digits where both are large.
    y_true = pairs.y_true.reshape(len(pairs.y_true), -1).double()
    y_pred = pairs.y_pred.reshape(len(pairs.y_pred), -1).double()
    if y_pred.shape != y_true.shape:
        message = (
            "plot_residuals needs one prediction per target, but got predictions "
            f"{describe(pairs.y_pred)} and targets {describe(pairs.y_true)}"
        )
        raise DataError(message)
    targets = y_true.shape[1]
    if targets > _TARGETS:
        message = f"plot_residuals supports up to {_TARGETS} targets, but the data has {targets}"
        raise ValueError(message)
    names = [""] if targets == 1 and labels is None else _class_names(labels, targets)
    figure = new_figure(9.6, 4.4 * targets)
    for number, name in enumerate(names):
        left, right = (figure.add_subplot(targets, 2, 2 * number + place) for place in (1, 2))
        draw_scatter(left, y_true[:, number], y_pred[:, number], name)
        draw_histogram(right, y_pred[:, number] - y_true[:, number])
    return save_figure(figure, path)


def _confusion(reader: PairReader) -> Tensor:
    """Return the number of samples by true class (rows) and predicted class (columns)."""
    from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix

    from fitorch.metrics.probabilities import Probabilities
    from fitorch.metrics.task import reshape_for_task

    metrics: list[Any] = []
    tasks: list[Any] = []

    def count(pairs: Pairs) -> Tensor:
        if not tasks:
            tasks.append(reader.task(pairs, "binary", "multiclass"))
            size = tasks[0].size
            metrics.append(
                Probabilities(BinaryConfusionMatrix().to(pairs.y_true.device), reader.scale)
                if tasks[0].kind == "binary"
                else MulticlassConfusionMatrix(size, ignore_index=reader.ignored).to(
                    pairs.y_true.device
                )
            )
        metrics[0].update(*reshape_for_task(tasks[0], pairs.y_pred, pairs.y_true))
        # Nothing of a batch is kept: the counts are in the metric.
        return torch.zeros(0, device=HOST)

    reader.each(count)
    counts: Tensor = metrics[0].compute()
    # This waits for the device.
    return counts.cpu()


def _class_names(labels: Sequence[Any] | None, classes: int) -> list[str]:
    """Return the names of the classes.

    Raises:
        ValueError: The number of labels differs from the number of classes.
    """
    if labels is None:
        return [str(number) for number in range(classes)]
    if len(labels) != classes:
        message = f"labels has {len(labels)} names, but there are {classes} classes: {list(labels)}"
        raise ValueError(message)
    return [str(label) for label in labels]
