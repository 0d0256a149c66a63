"""Predictions beside their targets, and what kind of problem they are, for pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fitorch.engine.prediction import PredictionStep, run_prediction
from fitorch.errors import DataError
from fitorch.fitting.evaluate import collect_hooks, open_source
from fitorch.fitting.foreign_arguments import refuse_unknown
from fitorch.metrics.batching import detached
from fitorch.metrics.task import (
    PredictionKind,
    Task,
    infer_task,
    outside_unit_interval,
    reshape_for_task,
    to_probabilities,
)
from fitorch.nets.forward import choose_forward
from fitorch.tree import describe

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_WAYS = {"batch_size": 32, "steps": None, "verbose": "auto", "num_workers": "auto"}


class Pairs(NamedTuple):
    """Predictions beside targets, and a weight for each sample, or None."""

    y_pred: Any
    y_true: Any
    weight: Tensor | None = None


class Reader:
    """Runs a model over data, for a picture.

    Args:
        model: The model.
        picture: What the method is called, for messages.
        how: What the user passed on: batch_size, steps, verbose, num_workers, output.

    Raises:
        TypeError: The user passed on something else.
    """

    def __init__(self, model: BaseModel, picture: str, how: Mapping[str, Any]) -> None:
        refuse_unknown({k: v for k, v in how.items() if k not in (*_WAYS, "output")}, picture)
        self.model, self.picture = model, picture
        self._how = {**_WAYS, **how}
        self._output = self._how.pop("output", None)
        key = () if self._output is None else (self._output,)
        self.scale: PredictionKind = model.objective.prediction_kind(key)
        told = (getattr(term.loss_fn, "ignore_index", None) for term in model.objective.losses)
        self.ignored = next((index for index in told if index is not None), -100)

    def each(self, take: Callable[[Pairs], Any]) -> Any:
        """Hand each batch's pairs to a function; return what it returns, joined, on the CPU."""
        model, how = self.model, self._how
        step = _Step(model, lambda pairs: take(self._one_output(pairs)))
        source = open_source(model, data=self.data, name="data", **_but(how, "verbose"))
        hooks = collect_hooks(model, None, how["verbose"], how["steps"] or source.steps)
        model.stop_predicting = False
        return run_prediction(model.net, step, source, hooks, how["steps"])

    def all(self) -> Pairs:
        """Return the pairs of all batches."""
        return Pairs(*self.each(lambda pairs: pairs))

    def over(self, data: Any) -> Reader:
        """Set what to run over."""
        self.data = data
        return self

    def task(self, pairs: Pairs, *kinds: str) -> Task:
        """Tell the kind of problem.

        Raises:
            ValueError: It is none of `kinds`.
        """
        try:
            task = infer_task(pairs.y_pred, pairs.y_true, self.scale)
        except ValueError:
            shapes = f"predictions {describe(pairs.y_pred)} and targets {describe(pairs.y_true)}"
            message = f"{self.picture} can't tell the task from {shapes}"
            raise DataError(message) from None
        if self.scale is None and task.kind != "regression":  # the loss does not tell
            zeros_and_ones = task.kind != "multiclass" and "regression" in kinds
            if zeros_and_ones or bool((pairs.y_true % 1 != 0).any()):
                task = Task("regression")
        if task.kind not in kinds:
            message = (
                f"{self.picture} is for {' and '.join(kinds)} problems, but this one is {task}: "
                f"predictions {describe(pairs.y_pred)}, targets {describe(pairs.y_true)}; "
                f"{_INSTEAD[task.kind]}"
            )
            raise ValueError(message)
        return task

    def _one_output(self, pairs: Pairs) -> Pairs:
        y_pred, y_true, weight = pairs
        if self._output is not None:
            y_pred, y_true = (_at(tree, self._output) for tree in (y_pred, y_true))
        if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
            return Pairs(y_pred, y_true, weight if isinstance(weight, Tensor) else None)
        message = (
            f"{self.picture} compares one tensor with another, but got predictions "
            f"{describe(y_pred)} and targets {describe(y_true)}; pick one with output="
        )
        raise DataError(message)


_INSTEAD = {
    "binary": "use plot_roc or plot_confusion_matrix",
    "multiclass": "use plot_roc or plot_confusion_matrix",
    "multilabel": "use plot_roc",
    "regression": "use plot_residuals",
}


class _Step(PredictionStep):
    """Hands each batch's pairs to a function, and keeps what it returns."""

    def __init__(self, model: BaseModel, take: Callable[[Pairs], Any]) -> None:
        self._spec = model.measurement_spec()
        super().__init__(self._spec, lambda: model.stop_predicting)
        self._take = take

    def _output(self, batch: Any) -> Any:
        spec = self._spec
        forward = choose_forward(spec.net, batch, spec.placement.cast, spec.forward)
        y_pred, y_true, weight = forward(batch)
        return self._take(Pairs(detached(y_pred), y_true, weight))


def one_versus_rest(task: Task, pairs: Pairs, scale: PredictionKind, ignored: int) -> Pairs:
    """Return a score for each class, (N, C), and whether it is the right one, (N, C).

    Args:
        task: The kind of problem.
        pairs: Predictions and targets.
        scale: What predictions are.
        ignored: The class number that says that there is none.
    """
    y_pred, y_true = reshape_for_task(task, pairs.y_pred, pairs.y_true)
    if task.kind == "binary":
        y_pred, y_true = y_pred.reshape(-1, 1), y_true.reshape(-1, 1) > 0
    elif task.kind == "multiclass":
        told: PredictionKind = scale or (
            "class_logits" if outside_unit_interval(y_pred) else "probabilities"
        )
        y_pred = to_probabilities(y_pred, y_true, told).movedim(1, -1).reshape(-1, task.size)
        counted = y_true.reshape(-1) != ignored
        y_pred, classes = y_pred[counted], y_true.reshape(-1)[counted]
        y_true = classes[:, None] == torch.arange(task.size)
        return Pairs(y_pred, y_true, _spread(pairs.weight, counted))
    return Pairs(y_pred, y_true > 0, _spread(pairs.weight, torch.ones(len(y_pred)) > 0))


def _spread(weight: Tensor | None, counted: Tensor) -> Tensor | None:
    """Give each pixel or token the weight of its sample; leave those out that do not count."""
    if weight is None:
        return None
    return weight.reshape(-1).repeat_interleave(len(counted) // weight.numel())[counted]


def _at(tree: Any, key: Any) -> Any:
    if isinstance(key, str) and not isinstance(tree, (Tensor, Mapping)) and hasattr(tree, key):
        return getattr(tree, key)
    parts: Any = tree
    try:
        return parts[key]
    except (KeyError, IndexError, TypeError) as error:
        message = f"there is no output {key!r} in {describe(tree)}"
        raise DataError(message) from error


def _but(how: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in how.items() if key != name}
