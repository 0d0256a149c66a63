"""What a model does without training: evaluate, predict, and say what it measures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from fitorch.callbacks.callback_list import on_every_process
from fitorch.callbacks.hooks import Hooks, with_keras_hooks
from fitorch.callbacks.notebook import NotebookProgress
from fitorch.callbacks.progress import Progress as ProgressDisplay
from fitorch.losses import Objective
from fitorch.metrics.base import flat
from fitorch.metrics.registry import check_names

from . import pictures
from .arguments import check_choice, check_count, check_workers
from .data import Batching, Source, as_source, set_name, validation_sets
from .evaluation import Evaluation, PredictionStep, Validation, predict
from .face import NetFace
from .interrupt import in_notebook
from .placement import floating_dtype
from .preflight import check_distinct, check_metrics_dict
from .prepare import introduce
from .processes import together
from .randomness import peek_seed
from .runner import runner_kit
from .runner_step import evaluation_step
from .steps import Measures
from .unknown import refuse_unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .run import Run


class Measuring(NetFace):
    """A net with an objective and metrics, as far as it is measured and run.

    Args:
        net: The module.
        loss_fn: What `KerasModel` takes.
        metrics_dict: What `KerasModel` takes.
        forward: What `KerasModel` takes.
        extra: Other keyword arguments, for a `StepRunner`.
        **placing: `channels_last`, `fsdp` and `deepspeed`, as `KerasModel` takes them.
    """

    StepRunner: ClassVar[Any] = None
    EpochRunner: ClassVar[Any] = None

    def __init__(
        self,
        net: nn.Module,
        loss_fn: Any,
        metrics_dict: Mapping[str, Any] | None,
        forward: Callable[[Any, Any], tuple[Any, Any]] | None,
        extra: Mapping[str, Any],
        **placing: Any,
    ) -> None:
        if self.StepRunner is None:
            refuse_unknown(extra, "KerasModel")
        self.metrics_dict = check_metrics_dict(metrics_dict)
        check_names((name, metric) for name, _, metric in flat(self.metrics_dict))
        objective = Objective(loss_fn, [name for name, _, _ in flat(self.metrics_dict)])
        super().__init__(net, objective, **placing)
        self.forward_hook = forward
        self.loss_fn, self.kwargs = loss_fn, extra
        self.stop_evaluating = False
        self.stop_predicting = False
        self.run: Run | None = None  # the fit that is under way

    def evaluate(
        self,
        val_data: Any,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        verbose: int | str = "auto",
        callbacks: Sequence[Any] | None = None,
        num_workers: int | str = "auto",
        **unknown: Any,
    ) -> dict[str, float]:
        """Measure loss and metrics over `val_data`; disturb nothing, also from within a callback.

        Args:
            val_data: As for `fit`, several sets by name included.
            batch_size: Samples in a batch, where batches are ours to make.
            steps: Batches to take; None for all.
            verbose: 0 silent, else a live line on a terminal.
            callbacks: Objects with Keras' `on_test_*` hooks.
            num_workers: As for `fit`.

        Returns:
            `{"val_loss": ..., "val_<metric>": ..., "val_<term of the objective>": ...}`, exact for
            any batch size.

        Raises:
            DataError: The data is empty or malformed.
        """
        refuse_unknown(unknown, "evaluate")
        self.stop_evaluating = False
        measures, passes = self.measures(), []
        self.objective.bind(self.net)  # which has been placed, and may have been spread, by now
        with together(self.placement.processes, "evaluate"):
            for prefix, data in validation_sets(val_data).items():
                source = self._source(data, set_name(prefix), batch_size, steps, num_workers)
                hooks = self._hooks(callbacks, verbose, steps or source.steps)
                step = evaluation_step(measures, source, prefix, lambda: self.stop_evaluating)
                passes.append(Evaluation(self.net, step, source, hooks, steps, set_name(prefix)))
            validation = Validation(passes)
            try:
                return validation()
            finally:
                validation.close()

    def predict(
        self,
        data: Any,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        verbose: int | str = "auto",
        callbacks: Sequence[Any] | None = None,
        num_workers: int | str = "auto",
        gather: str = "all",
        **unknown: Any,
    ) -> Any:
        """Return the net's outputs for all of `data`, in its order, on the CPU.

        Args:
            data: Features: a tensor, an array, a DataFrame, a dict for nets with named inputs; or
                anything `fit` takes, whose targets are left out. A tuple is `(x, y)`; for several
                inputs pass `((x1, x2),)`.
            batch_size: Samples in a batch, where batches are ours to make.
            steps: Batches to take; None for all.
            verbose: 0 silent, else a live line on a terminal.
            callbacks: Objects with Keras' `on_predict_*` hooks.
            num_workers: As for `fit`.
            gather: Of several processes: "all" to return everything in each, "main" to return it in
                the main process alone, and None in the others, which need no memory for it.

        Returns:
            The net's own output structure, its tensors joined along dimension 0.

        Raises:
            DataError: The data is empty, or outputs can't be joined.
        """
        refuse_unknown(unknown, "predict")
        if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
            warnings.warn(
                "predict keeps the order of the loader, which shuffles; pass one with shuffle=False"
                " to match outputs with samples",
                stacklevel=2,
            )
        check_choice("gather", gather, ("all", "main"))
        self.stop_predicting = False
        with together(self.placement.processes, "predict"):
            source = self._source(data, "data", batch_size, steps, num_workers)
            hooks = self._hooks(callbacks, verbose, steps or source.steps)
            step = PredictionStep(self.measures(), lambda: self.stop_predicting)
            return predict(self.net, step, source, hooks, steps, gather)

    def plot_confusion_matrix(
        self,
        data: Any,
        *,
        labels: Sequence[Any] | None = None,
        normalize: str | None = None,
        path: str | Path | None = None,
        **reading: Any,
    ) -> Figure:
        """Draw how often samples of each class were taken for which.

        Args:
            data: As for `evaluate`; it is read batch by batch.
            labels: What the classes are called; their numbers by default.
            normalize: None draws counts; "true", "pred" or "all" the shares of each row, of each
                column, or of all samples.
            path: Where to save the picture; its suffix decides the format.
            reading: `batch_size`, `steps`, `verbose` and `num_workers` as for `predict`; `output`
                names one of several outputs.

        Returns:
            The matplotlib figure; a notebook shows it where it is what a cell gives.

        Raises:
            ValueError: The problem has no classes, or `labels` are not as many as these.
        """
        return pictures.plot_confusion_matrix(self, data, labels, normalize, path, **reading)

    def plot_roc(
        self,
        data: Any,
        *,
        labels: Sequence[Any] | None = None,
        path: str | Path | None = None,
        **reading: Any,
    ) -> Figure:
        """Draw the ROC curve, of several classes one each against the rest, with the exact AUC.

        Args:
            data: As for `evaluate`; sample weights count.
            labels: What the classes are called; their numbers by default.
            path: Where to save the picture; its suffix decides the format.
            reading: As for `plot_confusion_matrix`.

        Returns:
            The matplotlib figure; a notebook shows it where it is what a cell gives.

        Raises:
            ValueError: The problem has no classes, or a prediction is NaN.
        """
        return pictures.plot_roc(self, data, labels, path, **reading)

    def plot_residuals(
        self,
        data: Any,
        *,
        labels: Sequence[Any] | None = None,
        path: str | Path | None = None,
        **reading: Any,
    ) -> Figure:
        """Draw predictions over targets, with R2, and how the differences are spread.

        Args:
            data: As for `evaluate`.
            labels: What the targets are called, where there are several.
            path: Where to save the picture; its suffix decides the format.
            reading: As for `plot_confusion_matrix`.

        Returns:
            The matplotlib figure; a notebook shows it where it is what a cell gives.

        Raises:
            ValueError: The problem is one of classes.
        """
        return pictures.plot_residuals(self, data, labels, path, **reading)

    def measures(self) -> Measures:
        """Return what a step measures."""
        kit = runner_kit(self)
        parts = self.net, self.objective, self.metrics_dict, self.placement, self.forward_hook, kit
        return Measures(*parts)

    def figure_names(self, sets: Sequence[str], *, train_metrics: bool = True) -> list[str]:
        """Return the names of all figures that a fit measures.

        Args:
            sets: What the figures of each validation set begin with.
            train_metrics: Whether metrics are measured in training.
        """
        metrics, terms = [name for name, _, _ in flat(self.metrics_dict)], self.objective.names
        trained = ["loss", *(metrics if train_metrics else []), *terms]
        validated = [f"{prefix}{name}" for prefix in sets for name in ("loss", *metrics, *terms)]
        names = [f"train_{name}" for name in trained]
        return check_distinct([*names, "lr", *self.objective.weights, *validated])

    def _source(
        self, data: Any, name: str, batch_size: int, steps: int | None, num_workers: int | str
    ) -> Source:
        check_workers(num_workers)
        check_count("batch_size", batch_size)
        check_count("steps", steps, optional=True)
        device = self.placement.device
        floating = floating_dtype(self.net.parameters())
        processes = self.placement.processes
        seed = processes.from_main(peek_seed())
        batching = Batching(batch_size, False, seed, floating, num_workers, processes.share)
        return as_source(data, name, batching).to(device)

    def _hooks(
        self, callbacks: Sequence[Any] | None, verbose: int | str, steps: int | None
    ) -> Hooks:
        """Return the hooks of an evaluation or prediction; within a fit it shows no line."""
        check_choice("verbose", verbose, ("auto", 0, 1, 2))
        found = [with_keras_hooks(callback) for callback in callbacks or ()]
        found = found if self.is_main_process else on_every_process(found)
        if verbose != 0 and self.run is None and self.placement.processes.main:
            found.append(NotebookProgress() if in_notebook() else ProgressDisplay())
        introduce(found, self, {"epochs": 1, "steps": steps, "verbose": verbose})
        return Hooks.collect(found)
