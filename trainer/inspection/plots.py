"""Pictures of what a model predicts beside what is true, and of one figure of a history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fitorch.metrics.registry import METRICS

from .errors import DataError
from .pairing import Pairs, Reader, one_versus_rest
from .panels import draw_chance, draw_curve, draw_histogram, draw_matrix, draw_scatter
from .plot import new_figure, plot_history
from .structure import describe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .base_model import BaseModel

_NORMALIZE = (None, "true", "pred", "all")
_TARGETS = 6  # rows of panels
_MODES = ("auto", "min", "max")


def plot_confusion_matrix(
    model: BaseModel,
    data: Any,
    labels: Sequence[Any] | None,
    normalize: str | None,
    path: str | Path | None,
    **reading: Any,
) -> Figure:
    """Draw how often each class was taken for which; see `KerasModel.plot_confusion_matrix`."""
    if normalize not in _NORMALIZE:
        message = f"normalize={normalize!r}; expected one of {_NORMALIZE}"
        raise ValueError(message)
    counts = _confusion(Reader(model, "plot_confusion_matrix", reading).over(data))
    names = _names(labels, len(counts))
    size = min(14.0, max(4.6, 1.8 + 0.5 * len(counts)))  # inches
    cell = 72 * (size - 1.8) / len(counts)  # points
    figure = new_figure(size, size)
    draw_matrix(figure.add_subplot(), counts, names, normalize, cell)
    return _saved(figure, path)


def plot_roc(
    model: BaseModel,
    data: Any,
    labels: Sequence[Any] | None,
    path: str | Path | None,
    **reading: Any,
) -> Figure:
    """Draw the ROC curve of each class; see `KerasModel.plot_roc`."""
    reader = Reader(model, "plot_roc", reading).over(data)
    pairs = reader.all()
    task = reader.task(pairs, "binary", "multiclass", "multilabel")
    scores, positive, weight = one_versus_rest(task, pairs, reader.scale, reader.ignored)
    if scores.isnan().any():
        message = "predictions are NaN; plot_roc can't put them in order"
        raise ValueError(message)
    names = _names(labels, max(2, task.size))[-scores.shape[1] :]
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
    return _saved(figure, path)


def plot_residuals(
    model: BaseModel,
    data: Any,
    labels: Sequence[Any] | None,
    path: str | Path | None,
    **reading: Any,
) -> Figure:
    """Draw predictions over targets, and how far off they are; see `KerasModel.plot_residuals`."""
    reader = Reader(model, "plot_residuals", reading).over(data)
    pairs = reader.all()
    reader.task(pairs, "regression")
    y_true = pairs.y_true.reshape(len(pairs.y_true), -1).double()
    y_pred = pairs.y_pred.reshape(len(pairs.y_pred), -1).double()
    if y_pred.shape != y_true.shape:
        message = (
            "plot_residuals compares a prediction with each target, but got predictions "
            f"{describe(pairs.y_pred)} and targets {describe(pairs.y_true)}"
        )
        raise DataError(message)
    targets = y_true.shape[1]
    if targets > _TARGETS:
        message = f"plot_residuals draws up to {_TARGETS} targets, but the data has {targets}"
        raise ValueError(message)
    names = [""] if targets == 1 and labels is None else _names(labels, targets)
    figure = new_figure(9.6, 4.4 * targets)
    for number, name in enumerate(names):
        left, right = (figure.add_subplot(targets, 2, 2 * number + place) for place in (1, 2))
        draw_scatter(left, y_true[:, number], y_pred[:, number], name)
        draw_histogram(right, y_pred[:, number] - y_true[:, number])
    return _saved(figure, path)


def plot_metric(
    dfhistory: pd.DataFrame, metric: str, mode: str = "auto", path: str | Path | None = None
) -> Figure:
    """Draw one figure of a history over the epochs, training and validation; the best is starred.

    Args:
        dfhistory: What `fit` returned.
        metric: The figure: "loss", "auc"; "val_auc" is the same.
        mode: "min" or "max" is best; "auto" knows it for losses and for metrics that have names,
            and stars nothing where it does not.
        path: Where to save the picture; its suffix decides the format.

    Returns:
        The matplotlib figure; a notebook shows it where it is what a cell gives.

    Raises:
        ValueError: The history has no such figure, or `mode` is none of the three.
        TypeError: `dfhistory` is no DataFrame.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"epoch": [1, 2], "train_auc": [0.7, 0.8], "val_auc": [0.6, 0.7]})
        >>> plot_metric(frame, "auc").axes[0].get_title(loc="left")
        'auc'
    """
    if not hasattr(dfhistory, "columns"):
        message = (
            f"dfhistory is a {type(dfhistory).__name__}; expected the DataFrame that fit returned, "
            "or model.history.frame"
        )
        raise TypeError(message)
    if mode not in _MODES:
        message = f"mode={mode!r}; expected one of {_MODES}"
        raise ValueError(message)
    columns = [str(column) for column in dfhistory]
    name = metric.removeprefix("train_").removeprefix("val_")
    sets = _sets(columns, name)
    watched = f"{sets[0]}{name}" if sets else f"train_{name}"
    best = _best_epoch(dfhistory, watched, name, mode)
    return _saved(plot_history(dfhistory, watched, best, [name], sets or ("val_",)), path)


def _sets(columns: list[str], name: str) -> list[str]:
    """Return what the columns of a figure begin with, by validation set: "val_", "val_clean_"."""
    trained = {column.removeprefix("train_") for column in columns if column.startswith("train_")}
    others = {f"val_{each}" for each in trained if each != name}
    found = [c for c in columns if c.startswith("val_") and c.endswith(f"_{name}")]
    return [column.removesuffix(name) for column in found if column not in others]


def _best_epoch(frame: pd.DataFrame, column: str, name: str, mode: str) -> float | None:
    """Return the epoch of the best value, None where there is none or nobody told what is best."""
    if mode == "auto":
        entry = METRICS.get(name)
        loss = name == "loss" or name.endswith("_loss")
        mode = "min" if loss else "" if entry is None else ("min", "max")[entry.higher_is_better]
    values = frame[column].to_numpy(float) if column in frame else np.array([])
    if not mode or not np.isfinite(values).any():
        return None
    row = np.nanargmin(values) if mode == "min" else np.nanargmax(values)
    return float(frame["epoch"].to_numpy()[row])


def _confusion(reader: Reader) -> Tensor:
    """Return how many samples of each class (rows) were taken for each (columns)."""
    from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix

    from fitorch.metrics.probabilities import Probabilities
    from fitorch.metrics.task import shaped

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
        metrics[0].update(*shaped(tasks[0], pairs.y_pred, pairs.y_true))
        return torch.zeros(0)

    reader.each(count)
    counts: Tensor = metrics[0].compute()
    return counts.cpu()


def _names(labels: Sequence[Any] | None, classes: int) -> list[str]:
    """Return what classes are called.

    Raises:
        ValueError: There are not as many labels as classes.
    """
    if labels is None:
        return [str(number) for number in range(classes)]
    if len(labels) != classes:
        message = f"labels has {len(labels)} names, but there are {classes} classes: {list(labels)}"
        raise ValueError(message)
    return [str(label) for label in labels]


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    """Save a figure where it is wanted in a file."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure
