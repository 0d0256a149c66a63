"""Metrics by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .hits import HitRate
from .probabilities import Probabilities
from .task import PredictionKind, Task

MetricFactory = Callable[[Task, PredictionKind], Any]


@dataclass(frozen=True, slots=True)
class MetricEntry:
    """What a name stands for.

    Args:
        make: Makes the metric for a task.
        higher_is_better: Its direction.
        task: The one task that it is for, or None.
    """

    make: MetricFactory
    higher_is_better: bool = True
    task: Task | None = None


def _accuracy(task: Task, scale: PredictionKind) -> Any:
    _check_task(task, ("regression",), "accuracy")
    if scale is None and task.kind != "multiclass":
        return Probabilities(HitRate(threshold=0.5), None)
    return HitRate(threshold=0.5 if scale == "probabilities" else 0.0)


def _auc(task: Task, scale: PredictionKind) -> Any:
    if task.kind != "binary":
        return _classification("AUROC")(task, scale)
    from .ranking import AUC

    return AUC()  # only the order counts


def _ks(task: Task, _scale: PredictionKind) -> Any:
    from .ranking import KS

    _check_task(task, ("multiclass", "multilabel", "regression"), "ks")
    return KS()


def _classification(suffix: str, **options: Any) -> MetricFactory:
    """Return what makes one of torchmetrics' classification metrics; classes are averaged."""

    def make(task: Task, scale: PredictionKind) -> Any:
        from torchmetrics import classification

        _check_task(task, ("regression",), suffix)
        sizes = {"multiclass": "num_classes", "multilabel": "num_labels"}
        size = {sizes[task.kind]: task.size} if task.kind in sizes else {}
        kind = getattr(classification, f"{task.kind.capitalize()}{suffix}", None)
        if kind is None:
            raise ValueError(_undefined_message(suffix, task))
        return Probabilities(kind(**size, **options), scale)

    return make


def _multiclass(suffix: str, **options: Any) -> MetricFactory:
    """Return what makes one that is defined for several classes only."""

    def make(task: Task, scale: PredictionKind) -> Any:
        _check_task(task, ("binary", "multilabel", "regression"), suffix)
        return _classification(suffix, **options)(task, scale)

    return make


def _regression(kind: str, **options: Any) -> MetricFactory:
    def make(_task: Task, _scale: PredictionKind) -> Any:
        from torchmetrics import regression

        return getattr(regression, kind)(**options)

    return make


def _check_task(task: Task, kinds: tuple[str, ...], name: str) -> None:
    if task.kind in kinds:
        raise ValueError(_undefined_message(name, task))


def _undefined_message(name: str, task: Task) -> str:
    return (
        f"{name} is not defined for what the first batch shows: {task}; pass a metric of "
        "torchmetrics, or a function (y_pred, y_true)"
    )


_REGRESSION = Task("regression")

METRICS: dict[str, MetricEntry] = {
    "acc": MetricEntry(_accuracy),
    "accuracy": MetricEntry(_accuracy),
    "ap": MetricEntry(_classification("AveragePrecision")),
    "auc": MetricEntry(_auc),
    "auroc": MetricEntry(_auc),
    "average_precision": MetricEntry(_classification("AveragePrecision")),
    "balanced_accuracy": MetricEntry(_multiclass("Accuracy", average="macro")),
    "f1": MetricEntry(_classification("F1Score")),
    "iou": MetricEntry(_classification("JaccardIndex")),
    "kappa": MetricEntry(_classification("CohenKappa")),
    "ks": MetricEntry(_ks),
    "mae": MetricEntry(_regression("MeanAbsoluteError"), higher_is_better=False, task=_REGRESSION),
    "mape": MetricEntry(
        _regression("MeanAbsolutePercentageError"), higher_is_better=False, task=_REGRESSION
    ),
    "mcc": MetricEntry(_classification("MatthewsCorrCoef")),
    "mse": MetricEntry(_regression("MeanSquaredError"), higher_is_better=False, task=_REGRESSION),
    "msle": MetricEntry(
        _regression("MeanSquaredLogError"), higher_is_better=False, task=_REGRESSION
    ),
    "precision": MetricEntry(_classification("Precision")),
    "r2": MetricEntry(_regression("R2Score"), task=_REGRESSION),
    "recall": MetricEntry(_classification("Recall")),
    "rmse": MetricEntry(
        _regression("MeanSquaredError", squared=False), higher_is_better=False, task=_REGRESSION
    ),
    "specificity": MetricEntry(_classification("Specificity")),
    "top5_acc": MetricEntry(_multiclass("Accuracy", average="micro", top_k=5)),
}


def check_names(metrics: Iterable[tuple[str, Any]]) -> None:
    """Refuse names that nothing is called, and a metric that is called as the loss is.

    Args:
        metrics: What each metric's figure is called, and the metric.

    Raises:
        ValueError: No metric has that name, or a metric's figure would be that of the loss.
    """
    for name, metric in metrics:
        if name == "loss":
            message = "a metric is called 'loss', as the loss itself is; give it another name"
            raise ValueError(message)
        if isinstance(metric, str):
            entry_of(metric)


def entry_of(name: str) -> MetricEntry:
    """Return what a name stands for.

    Raises:
        ValueError: No metric has that name.
    """
    if name in METRICS:
        return METRICS[name]
    close = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown metric {name!r}{hint}; expected one of {', '.join(METRICS)}"
    raise ValueError(message)


def higher_is_better(metric: Any, part: str = "") -> bool | None:
    """Say in which direction a metric improves, None where it does not tell.

    Args:
        metric: A metric or a name.
        part: The key of the figure, where the metric gives several.
    """
    if isinstance(metric, str):
        return entry_of(metric).higher_is_better
    if type(metric).__name__ == "MetricCollection" and part in metric:
        metric = metric[part]
    higher: bool | None = getattr(metric, "higher_is_better", None)
    return higher
