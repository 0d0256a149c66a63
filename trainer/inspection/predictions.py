"""Pairs of predictions and targets for plots, and their task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fitorch.engine.joining import BatchOutput
from fitorch.engine.prediction import PredictionStep, run_prediction
from fitorch.errors import DataError
from fitorch.fitting.evaluate import collect_hooks, open_source
from fitorch.fitting.foreign_arguments import refuse_unknown
from fitorch.metrics.batching import detached
from fitorch.metrics.targets import TargetForm, logits_of
from fitorch.metrics.task import (
    PredictionKind,
    Task,
    infer_task,
    outside_unit_interval,
    reshape_for_task,
    to_probabilities,
)
from fitorch.nets.forward import choose_forward
from fitorch.randomness import undisturbed_randomness
from fitorch.tree import describe, join

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_DEFAULTS = {"batch_size": 32, "steps": None, "verbose": "auto", "num_workers": "auto"}


class Pairs(NamedTuple):
    """Predictions, targets, and a weight for each sample or None."""

    y_pred: Any
    y_true: Any
    weight: Tensor | None = None


class PairReader:
    """Runs a model over data for a plot.

    Args:
        model: The model.
        picture: The name of the plot method, for messages.
        how: The user's options: batch_size, steps, verbose, num_workers, output.

    Raises:
        TypeError: There is another option.
    """

    def __init__(self, model: BaseModel, picture: str, how: Mapping[str, Any]) -> None:
        refuse_unknown({k: v for k, v in how.items() if k not in (*_DEFAULTS, "output")}, picture)
        self.model, self.picture = model, picture
        self._how = {**_DEFAULTS, **how}
        self._output = self._how.pop("output", None)
        key = () if self._output is None else (self._output,)
        self.scale: PredictionKind = model.objective.prediction_kind(key)
        self.ignored = model.objective.ignored_class(key)
        # The same form as that of metrics, so that a plot counts what they count.
        self._form = TargetForm(
            self.scale,
            self.ignored,
            partial(model.objective.classes_last, key),
            partial(model.objective.shifted, key),
        )

    def each(self, take: Callable[[Pairs], Any]) -> Any:
        """Call a function with the pairs of each batch; return its results concatenated, on CPU."""
        # A plot leaves everything as it is, the generators too.
        with undisturbed_randomness():
            outputs = self._run(take)
        try:
            return join(torch.cat, [output.output for output in outputs])
        except RuntimeError as error:
            message = f"the outputs of the batches cannot be joined along dimension 0: {error}"
            raise DataError(message) from error

    def _run(self, take: Callable[[Pairs], Any]) -> list[BatchOutput]:
        model, how = self.model, self._how
        step = _PairStep(model, lambda pairs: take(self._one_output(pairs)))
        source = open_source(model, data=self.data, name="data", **_without(how, "verbose"))
        hooks = collect_hooks(model, None, how["verbose"], how["steps"] or source.steps)
        # A callback may have stopped an earlier prediction.
        model.stop_predicting = False
        return run_prediction(model.net, step, source, hooks, how["steps"]) or []

    def all(self) -> Pairs:
        """Return the pairs of all batches."""
        return Pairs(*self.each(lambda pairs: pairs))

    def over(self, data: Any) -> PairReader:
        """Set the data, and return this reader."""
        self.data = data
        return self

    def task(self, pairs: Pairs, *kinds: str) -> Task:
        """Return the task of the pairs.

        Raises:
            ValueError: The task is none of `kinds`.
        """
        try:
            task = infer_task(pairs.y_pred, pairs.y_true, self.scale)
        except ValueError:
            shapes = f"predictions {describe(pairs.y_pred)} and targets {describe(pairs.y_true)}"
            message = f"{self.picture} cannot infer the task from {shapes}"
            raise DataError(message) from None
        if self.scale is None and task.kind != "regression":  # unknown to the loss
            # Targets of 0 and 1 may be classes or numbers, which only the loss tells.
            zeros_and_ones = task.kind != "multiclass" and "regression" in kinds
            # This waits for the device, once per plot.
            if zeros_and_ones or bool((pairs.y_true % 1 != 0).any()):
                task = Task("regression")
        if task.kind not in kinds:
            message = (
                f"{self.picture} supports {' and '.join(kinds)} tasks, but this one is {task}: "
                f"predictions {describe(pairs.y_pred)}, targets {describe(pairs.y_true)}; "
                f"{_INSTEAD[task.kind]}"
            )
            raise ValueError(message)
        return task

    def _one_output(self, pairs: Pairs) -> Pairs:
        y_pred, y_true, weight = pairs
        if self._output is not None:
            y_pred, y_true = (_select_output(tree, self._output) for tree in (y_pred, y_true))
        y_pred, y_true, _ = self._form.prepare(logits_of(y_pred), y_true)
        if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
            return Pairs(y_pred, y_true, weight if isinstance(weight, Tensor) else None)
        message = (
            f"{self.picture} compares one tensor with another, but got predictions "
            f"{describe(y_pred)} and targets {describe(y_true)}; select one with output="
        )
        raise DataError(message)


_INSTEAD = {
    "binary": "use plot_roc or plot_confusion_matrix",
    "multiclass": "use plot_roc or plot_confusion_matrix",
    "multilabel": "use plot_roc",
    "regression": "use plot_residuals",
}


class _PairStep(PredictionStep):
    """Prediction step whose output is the result of a function of a batch's pairs."""

    def __init__(self, model: BaseModel, take: Callable[[Pairs], Any]) -> None:
        self._spec = model.measurement_spec()
        super().__init__(self._spec, lambda: model.stop_predicting)
        self._take = take

    def _output(self, batch: Any) -> Any:
        spec = self._spec
        forward = choose_forward(spec.net, batch, spec.placement.cast, spec.forward)
        y_pred, y_true, weight = forward(batch)
        return self._take(Pairs(detached(y_pred), y_true, weight))


def one_vs_rest(task: Task, pairs: Pairs, scale: PredictionKind, ignored: int | None) -> Pairs:
    """Return a score for each class, (N, C), and whether it is the true class, (N, C).

    Args:
        task: The task of the pairs.
        pairs: Predictions and targets.
        scale: The kind of predictions, None if it is unknown.
        ignored: The class number of targets to ignore, None if all of them count.
    """
    y_pred, y_true = reshape_for_task(task, pairs.y_pred, pairs.y_true)
    if task.kind == "binary":
        y_pred, y_true = y_pred.reshape(-1, 1), y_true.reshape(-1, 1) > 0
    elif task.kind == "multiclass":
        # If the loss does not tell, predictions outside of [0, 1] are logits.
        kind: PredictionKind = scale or (
            "class_logits" if outside_unit_interval(y_pred) else "probabilities"
        )
        y_pred = to_probabilities(y_pred, y_true, kind).movedim(1, -1).reshape(-1, task.size)
        valid = torch.ones_like(y_true) > 0 if ignored is None else y_true != ignored
        valid = valid.reshape(-1)
        y_pred, classes = y_pred[valid], y_true.reshape(-1)[valid]
        y_true = classes[:, None] == torch.arange(task.size, device=classes.device)
        return Pairs(y_pred, y_true, _weight_per_element(pairs.weight, valid))
    return Pairs(
        y_pred,
        y_true > 0,
        _weight_per_element(pairs.weight, torch.ones(len(y_pred), device=y_pred.device) > 0),
    )


def _weight_per_element(weight: Tensor | None, valid: Tensor) -> Tensor | None:
    """Return the weight of each valid element (pixel or token): that of its sample."""
    if weight is None:
        return None
    # Elements of a sample lie side by side after the reshape.
    return weight.reshape(-1).repeat_interleave(len(valid) // weight.numel())[valid]


def _select_output(tree: Any, key: Any) -> Any:
    if isinstance(key, str) and not isinstance(tree, (Tensor, Mapping)) and hasattr(tree, key):
        return getattr(tree, key)
    parts: Any = tree
    try:
        return parts[key]
    except (KeyError, IndexError, TypeError) as error:
        message = f"output {key!r} does not exist in {describe(tree)}"
        raise DataError(message) from error


def _without(how: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in how.items() if key != name}
