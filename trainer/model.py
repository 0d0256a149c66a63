"""KerasModel: fit, evaluate and predict around any torch.nn.Module.

The file is longer than most, since half of it says what the arguments of the three verbs mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from fitorch.callbacks.hooks import Hooks, with_keras_hooks
from fitorch.callbacks.progress import Progress as ProgressDisplay
from fitorch.losses import Objective
from fitorch.metrics.base import flat
from fitorch.metrics.registry import check_names

from .arguments import (
    FitArguments,
    check_choice,
    check_count,
    check_flag,
    check_workers,
    refuse_unknown,
)
from .compiled import Compilation
from .data import Batching, Source, as_source, set_name, validation_sets
from .evaluation import Evaluation, PredictionStep, Validation, predict
from .face import NetFace
from .fit import fit
from .history import History
from .interrupt import in_notebook
from .optimizers import OptimizerLike, make_optimizer, make_scheduler
from .placement import floating_dtype
from .preflight import check_distinct, check_metrics_dict, check_module, check_optimizer
from .prepare import introduce, prepare
from .randomness import draw_seed, peek_seed, undisturbed_randomness
from .range_test import find_lr
from .state import Progress
from .steps import EvaluationStep, Measures
from .update import Update

if TYPE_CHECKING:
    import pandas as pd


class KerasModel(NetFace):
    """Train, evaluate and run any `nn.Module`.

    Args:
        net: The module. It is trained in place, and stays usable by itself.
        loss_fn: Maps `(y_pred, y_true)` to a scalar: a loss of torch.nn, a function, a name as
            "cross_entropy", or a formula, `FocalLoss() + 1e-3 * L2()`, whose terms get columns of
            their own; a mapping or list of these for a net of several outputs. None where the net's
            own output carries a `.loss` (Hugging Face).
        metrics_dict: Name to metric: a torchmetrics object, a function `(y_pred, y_true) -> scalar`
            (averaged by samples), or a name as "acc". Columns are `train_<name>`, `val_<name>`.
            Several outputs may have such a mapping each: `{"sex": {"acc": "acc"}}`.
        optimizer: An instance over the net's parameters, a function `params -> Optimizer`, or a
            name as "adamw"; None is `Adam(lr=3e-4)`. One that is built here is fused where it can.
        lr_scheduler: An instance, a function `optimizer -> scheduler`, or None.
        forward: For batches of a form of your own: `forward(net, batch) -> (predictions, targets)`.
        jit_compile: Compile whole training steps with torch.compile, which takes seconds to minutes
            before it pays; where that can't be, a warning says why, and training goes on without.
        channels_last: Keep images (N, C, H, W), and weights of convolutions, in channels-last
            memory, which is faster for most convolutional nets; figures differ by rounding.

    Attributes:
        net: The module.
        optimizer: The optimizer.
        history: The `History` of all fits: `.frame`, `.best`, `.plot()`.
        ckpt_path: The folder with the best weights of the last fit, or None.
        metric_tasks: What metrics given by name turned out to measure, as "multiclass, 10 classes".
        stop_training: Set it to True in a callback to stop after the current batch; likewise
            `stop_evaluating` and `stop_predicting`.

    Raises:
        TypeError: An argument is not what it should be.
        ValueError: The optimizer is another net's, or a name is unknown.

    Example:
        >>> import torch
        >>> x = torch.randn(64, 2)
        >>> y = (x.sum(1, keepdim=True) > 0).float()
        >>> net = torch.nn.Linear(2, 1)
        >>> model = KerasModel(net, "bce_with_logits", {"acc": "acc"})
        >>> frame = model.fit((x, y), epochs=2, verbose=0)
        >>> list(frame)
        ['epoch', 'train_loss', 'train_acc', 'lr', 'seconds']
    """

    def __init__(
        self,
        net: nn.Module,
        loss_fn: Any = None,
        metrics_dict: Mapping[str, Any] | None = None,
        optimizer: OptimizerLike = None,
        lr_scheduler: Any = None,
        *,
        forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        jit_compile: bool = False,
        channels_last: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(unknown, "KerasModel")
        check_flag("jit_compile", jit_compile)
        check_flag("channels_last", channels_last)
        check_module(net)
        self.metrics_dict = check_metrics_dict(metrics_dict)
        check_names((name, metric) for name, _, metric in flat(self.metrics_dict))
        objective = Objective(loss_fn, [name for name, _, _ in flat(self.metrics_dict)])
        super().__init__(net, objective, channels_last=channels_last)
        loss_parameters = dict(self.objective.named_parameters(net))
        self.optimizer = make_optimizer(optimizer, net, loss_parameters.values())
        self.lr_scheduler = None
        if self.optimizer is not None:  # there is something to train
            check_optimizer(self.optimizer, net, loss_parameters)
            self.lr_scheduler = make_scheduler(lr_scheduler, self.optimizer)
        self.forward_hook = forward
        self.compilation = Compilation() if jit_compile else None
        self.history = History()
        self.progress = Progress()
        self.ckpt_path: str | Path | None = None
        self.stop_training = False
        self.stop_evaluating = False
        self.stop_predicting = False
        self.metric_tasks: dict[str, str] = {}
        self.update: Update | None = None  # of the fit that is under way
        self._fitting = False

    def fit(  # noqa: PLR0913 - Keras' and torchkeras' arguments, by their names
        self,
        train_data: Any,
        val_data: Any = None,
        epochs: int = 10,
        ckpt_path: str | Path | None = None,
        patience: int | None = None,
        monitor: str = "val_loss",
        mode: str = "auto",
        callbacks: Sequence[Any] | None = None,
        plot: bool | str | Path | None = None,
        wandb: bool | str | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        validation_split: float = 0.0,
        validation_freq: int = 1,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        initial_epoch: int | None = None,
        class_weight: Mapping[int, float] | None = None,
        verbose: int | str = "auto",
        mixed_precision: str | None = None,
        cpu: bool = False,
        gradient_accumulation_steps: int = 1,
        seed: int | None = None,
        max_time: timedelta | float | str | None = None,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        scheduler_step: str = "auto",
        train_metrics: bool = True,
        num_workers: int | str = "auto",
        **unknown: Any,
    ) -> pd.DataFrame:
        """Train the net; return the history of all fits, one row per epoch.

        A second call goes on where the first stopped: same optimizer state, epochs count on.

        Args:
            train_data: A DataLoader, a Dataset, `(x, y)` or `(x, y, sample_weight)` of tensors,
                arrays, DataFrames or dicts of them, or any iterable of batches.
            val_data: The same, for validation after each epoch; several sets by name, as
                `{"clean": ..., "noisy": ...}`, give figures such as `val_clean_loss`.
            epochs: How many epochs to train; with `initial_epoch` the number of the last.
            ckpt_path: A folder for `best.safetensors`, the weights of the best epoch.
            patience: Stop after this many epochs without improvement of `monitor`; None never.
            monitor: The figure that decides what is best; without validation `train_loss`.
            mode: "min", "max", or "auto": min for losses, else what the metric tells.
            callbacks: Objects with Keras' hooks.
            plot: True writes `history.png` beside the checkpoint; a path says where.
            wandb: True, or a project's name: `WandbCallback(project)` behind the other callbacks.
            batch_size: Samples in a batch, where batches are ours to make.
            shuffle: Draw a new order for each epoch, where batches are ours to make.
            validation_split: The fraction of `(x, y)` to validate on: the last, before shuffling.
            validation_freq: Validate every so many epochs.
            steps_per_epoch: Batches in an epoch; the next goes on where it stopped.
            validation_steps: Batches to validate on, always from the first.
            initial_epoch: Epochs to count as completed.
            class_weight: Class number to weight, in the training loss.
            verbose: 0 silent, 1 a live line and a table, 2 a line per epoch, "auto" 1 on a
                terminal and 2 elsewhere.
            mixed_precision: "no", "fp16" or "bf16"; None as accelerate is configured.
            cpu: Train on the CPU whatever there is.
            gradient_accumulation_steps: Batches per update.
            seed: What everything random in this fit follows from; None draws one from torch's
                global generator. The global generators are put back afterwards.
            max_time: Stop after a timedelta, seconds, or "HH:MM:SS".
            clip_grad_norm: Scale gradients down to this 2-norm before an update.
            clip_grad_value: Clamp each gradient to [-value, value] before an update.
            scheduler_step: When the schedule goes on: "update", "epoch", "validation", or "auto".
            train_metrics: Whether to measure the metrics in training too; the loss always is.
            num_workers: How many processes read samples out of a Dataset; "auto" reads in this one
                until more are worth their while. A DataLoader keeps its own.

        Returns:
            The columns epoch (from 1), train_loss, train_<metric>, train_<term of the objective>,
            lr, the same for val_, and seconds; NaN where nothing was measured.

        Raises:
            DataError: The data is empty or malformed; a batch's shape does not fit net or loss.
            NonFiniteError: The training loss became NaN or infinite.
            ValueError: An argument is out of range or does not go with the others.
            TypeError: An argument is unknown or of the wrong type.
            KeyboardInterrupt: Ctrl-C, after history and best weights were put in order.
        """
        refuse_unknown(unknown, "fit")
        arguments = FitArguments(
            epochs=epochs,
            ckpt_path=ckpt_path,
            patience=patience,
            monitor=monitor,
            mode=mode,
            callbacks=[with_keras_hooks(callback) for callback in callbacks or ()],
            plot=plot,
            wandb=wandb,
            batch_size=batch_size,
            shuffle=shuffle,
            validation_split=validation_split,
            validation_freq=validation_freq,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            initial_epoch=initial_epoch,
            class_weight=class_weight,
            verbose=verbose,
            mixed_precision=mixed_precision,
            cpu=cpu,
            gradient_accumulation_steps=gradient_accumulation_steps,
            seed=draw_seed() if seed is None else seed,
            max_time=max_time,
            clip_grad_norm=clip_grad_norm,
            clip_grad_value=clip_grad_value,
            scheduler_step=scheduler_step,
            train_metrics=train_metrics,
            num_workers=num_workers,
        )
        with undisturbed_randomness():
            self._fit(train_data, val_data, arguments)
        return self.history.frame

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
        self.objective.bind(self.net)
        self.stop_evaluating = False
        passes = []
        for prefix, data in validation_sets(val_data).items():
            source = self._source(data, set_name(prefix), batch_size, steps, num_workers)
            hooks = self._hooks(callbacks, verbose, steps or source.steps)
            step = EvaluationStep(self.measures(), source, prefix, lambda: self.stop_evaluating)
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
        source = self._source(data, "data", batch_size, steps, num_workers)
        hooks = self._hooks(callbacks, verbose, steps or source.steps)
        self.stop_predicting = False
        step = PredictionStep(self.measures(), lambda: self.stop_predicting)
        return predict(self.net, step, source, hooks, steps)

    def find_lr(
        self,
        train_data: Any,
        *,
        start: float = 1e-7,
        end: float = 10.0,
        steps: int = 100,
        batch_size: int = 32,
        seed: int | None = None,
        plot: str | Path | None = None,
    ) -> pd.DataFrame:
        """Find a learning rate: train a copy with a rate that grows from batch to batch.

        Model, optimizer, random generators and the data's own generators stay as they are. The test
        ends early where the loss explodes.

        Args:
            train_data: As for `fit`, but for generators, which can be read only once.
            start: The first rate.
            end: The last rate.
            steps: Batches to train on, each with a rate of its own on a logarithmic scale.
            batch_size: Samples in a batch, where batches are ours to make.
            seed: What everything random in the test follows from.
            plot: Where to draw loss over rate, or None.

        Returns:
            The columns lr, loss (of the batch) and smoothed (its exponential mean), a row per
            batch; `frame.attrs["suggestion"]` is a tenth of the rate at which the smoothed loss is
            least.

        Raises:
            ValueError: An argument is out of range.
            TypeError: `train_data` is a generator.

        Source: Smith, 2017, Cyclical learning rates for training neural networks, section 3.3.
        """
        return find_lr(self, train_data, start, end, steps, batch_size, seed, plot)

    @property
    def updates(self) -> int:
        """How many updates the optimizer made, over all fits and in the one under way."""
        return self.progress.updates if self.update is None else self.update.completed

    def measures(self) -> Measures:
        """Return what a step measures."""
        placement = self.placement
        return Measures(self.net, self.objective, self.metrics_dict, placement, self.forward_hook)

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

    def _fit(self, train_data: Any, val_data: Any, arguments: FitArguments) -> None:
        self.stop_training = False
        self.ckpt_path = arguments.ckpt_path
        run = prepare(self, train_data, val_data, arguments)
        self._fitting = True
        try:
            fit(run)
        except KeyboardInterrupt:
            if not in_notebook():
                raise
        finally:
            self._fitting = False
            run.close()

    def _source(
        self, data: Any, name: str, batch_size: int, steps: int | None, num_workers: int | str
    ) -> Source:
        check_workers(num_workers)
        check_count("batch_size", batch_size)
        check_count("steps", steps, optional=True)
        device = self.placement.device
        floating = floating_dtype(self.net.parameters())
        batching = Batching(batch_size, False, peek_seed(), floating, num_workers)
        return as_source(data, name, batching).to(device)

    def _hooks(
        self, callbacks: Sequence[Any] | None, verbose: int | str, steps: int | None
    ) -> Hooks:
        """Return the hooks of an evaluation or prediction; within a fit it shows no line."""
        check_choice("verbose", verbose, ("auto", 0, 1, 2))
        found = [with_keras_hooks(callback) for callback in callbacks or ()]
        if verbose != 0 and not self._fitting:
            found.append(ProgressDisplay())
        introduce(found, self, {"epochs": 1, "steps": steps, "verbose": verbose})
        return Hooks.collect(found)
