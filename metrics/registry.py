"""Registry of metrics: names, and how to build the metric for a task."""

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
    """A registered metric.

    Args:
        make: A function that builds the metric for a task and a kind of predictions.
        higher_is_better: Whether a higher value is better.
        task: The only task that the metric is for; None infers it from the first batch.
    """

    make: MetricFactory
    higher_is_better: bool = True
    task: Task | None = None


def _accuracy(task: Task, scale: PredictionKind) -> Any:
    _check_task(task, ("regression",), "accuracy")
    # Logits or probabilities is known only at the end of the epoch.
    if scale is None and task.kind != "multiclass":
        return Probabilities(HitRate(threshold=0.5), None)
    return HitRate(threshold=0.5 if scale == "probabilities" else 0.0)


def _balanced_accuracy(task: Task, _scale: PredictionKind) -> Any:
    _check_task(task, ("binary", "multilabel", "regression"), "balanced_accuracy")
    from .counts import BalancedAccuracy

    return BalancedAccuracy(task.size)


def _auc(task: Task, scale: PredictionKind) -> Any:
    if task.kind != "binary":
        return _classification("AUROC")(task, scale)
    from .ranking import AUC

    return AUC()  # exact for logits and probabilities alike: only the order matters


def _ks(task: Task, _scale: PredictionKind) -> Any:
    from .ranking import KS

    _check_task(task, ("multiclass", "multilabel", "regression"), "ks")
    return KS()


def _classification(suffix: str, **options: Any) -> MetricFactory:
    """Return a factory for a torchmetrics classification metric, averaged over classes."""

    def make(task: Task, scale: PredictionKind) -> Any:
        # The import is here, because torchmetrics takes seconds.
        from torchmetrics import classification

        _check_task(task, ("regression",), suffix)
        sizes = {"multiclass": "num_classes", "multilabel": "num_labels"}
        size = {sizes[task.kind]: task.size} if task.kind in sizes else {}
        metric_type = getattr(classification, f"{task.kind.capitalize()}{suffix}", None)
        if metric_type is None:
            raise ValueError(_undefined_message(suffix, task))
        return Probabilities(metric_type(**size, **options), scale)

    return make


def _multiclass(suffix: str, **options: Any) -> MetricFactory:
    """Return a factory for a classification metric that is defined for several classes only."""

    def make(task: Task, scale: PredictionKind) -> Any:
        _check_task(task, ("binary", "multilabel", "regression"), suffix)
        return _classification(suffix, **options)(task, scale)

    return make


def _regression(name: str, **options: Any) -> MetricFactory:
    """Return a factory for a torchmetrics regression metric."""

    def make(_task: Task, _scale: PredictionKind) -> Any:
        from torchmetrics import regression

        return getattr(regression, name)(**options)

    return make


def _check_task(task: Task, kinds: tuple[str, ...], name: str) -> None:
    if task.kind in kinds:
        raise ValueError(_undefined_message(name, task))


def _undefined_message(name: str, task: Task) -> str:
    return (
        f"{name} is not defined for the task of the first batch: {task}; pass a metric of "
        "torchmetrics, or a function (y_pred, y_true)"
    )


_REGRESSION = Task("regression")

_SCORE = f"{__package__}.score"  # the module of the base class, which imports torchmetrics

METRICS: dict[str, MetricEntry] = {
    "acc": MetricEntry(_accuracy),
    "accuracy": MetricEntry(_accuracy),
    "ap": MetricEntry(_classification("AveragePrecision")),
    "auc": MetricEntry(_auc),
    "auroc": MetricEntry(_auc),
    "average_precision": MetricEntry(_classification("AveragePrecision")),
    "balanced_accuracy": MetricEntry(_balanced_accuracy),
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
    """Check that metrics passed by name exist, and that no column of a metric is named 'loss'.

    Args:
        metrics: The column name of each metric, and the metric.

    Raises:
        ValueError: A name is unknown, or a metric's column is named 'loss'.
    """
    for name, metric in metrics:
        if name == "loss":
            message = "a metric is named 'loss', like the loss itself; choose another name"
            raise ValueError(message)
        if isinstance(metric, str):
            entry_of(metric)


def entry_of(name: str) -> MetricEntry:
    """Return the entry of a name.

    Raises:
        ValueError: The name is unknown.
    """
    if name in METRICS:
        return METRICS[name]
    close = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown metric {name!r}{hint}; expected one of {', '.join(METRICS)}"
    raise ValueError(message)


def has_one_value(metric: Any) -> bool:
    """Return whether a metric is known to have a single value, as those of fitorch do."""
    names = {kind.__name__ for kind in type(metric).__mro__ if kind.__module__ == _SCORE}
    return isinstance(metric, str) or bool(names)


def collection_keys(metric: Any) -> list[str]:
    """Return the names of the metrics of a MetricCollection; empty for any other metric."""
    is_collection = type(metric).__name__ == "MetricCollection"
    return list(map(str, metric.keys())) if is_collection else []


def higher_is_better(metric: Any, part: str = "") -> bool | None:
    """Return whether a higher value of a metric is better, None if the metric does not define it.

    Args:
        metric: A metric or a name.
        part: The key of the value, if the metric returns a dict.
    """
    if isinstance(metric, str):
        return entry_of(metric).higher_is_better
    if type(metric).__name__ == "MetricCollection" and part in metric:
        metric = metric[part]
    higher: bool | None = getattr(metric, "higher_is_better", None)
    return higher
