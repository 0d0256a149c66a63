"""KerasModel: fit around any torch.nn.Module; evaluate and predict are in measuring.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fitorch.callbacks.hooks import with_keras_hooks

from .arguments import FitArguments, check_flag
from .compiled import Compilation
from .fit import fit
from .interrupt import in_notebook
from .optimizers import OptimizerLike, make_optimizer, make_scheduler
from .preflight import check_module, check_optimizer
from .processes import together
from .randomness import deterministic_algorithms, draw_seed, undisturbed_randomness
from .ranks import check_alike, share_results
from .resuming import begin, run_folder
from .sharding import check_plugin
from .trainable import Trainable
from .unknown import refuse_unknown
from .zero import check_plugin as check_deepspeed

if TYPE_CHECKING:
    import pandas as pd


class KerasModel(Trainable):
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
        fsdp: Of several processes: True spreads the net over them, a part of each weight in each
            (FSDP2), for nets that one device can't hold; or an accelerate
            `FullyShardedDataParallelPlugin` that says how. None is as accelerate is configured.
        deepspeed: Of several processes: True has DeepSpeed spread gradients and the optimizer's
            state over them (ZeRO-2), the net staying whole in each; or DeepSpeed's configuration,
            its file, or an accelerate `DeepSpeedPlugin`. None is as accelerate is configured.

    Attributes:
        net: What was passed; of several processes with `fsdp`, spread over them.
        optimizer: What was passed, or made of it.
        history: The `History` of all fits: `.frame`, `.best`, `.plot()`, `.to_html()`.
        ckpt_path: The folder with the best weights of the last fit, or None.
        metric_tasks: What metrics given by name turned out to measure, as "multiclass, 10 classes".
        stop_training: Set it to True in a callback to stop after the current batch; likewise
            `stop_evaluating` and `stop_predicting`.
        StepRunner: torchkeras' extension point, a class that does all of a step; None, unless set
            on the class or a subclass. It gets keyword arguments that are unknown here.
        EpochRunner: Likewise, a class that goes over the batches of an epoch with a step runner.

    Raises:
        TypeError: An argument is not what it should be.
        ValueError: The optimizer is another net's, a name is unknown, or both fsdp and deepspeed
            are asked for.

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
        fsdp: Any = None,
        deepspeed: Any = None,
        **unknown: Any,
    ) -> None:
        check_flag("jit_compile", jit_compile)
        check_flag("channels_last", channels_last)
        check_plugin(fsdp)
        check_deepspeed(deepspeed, fsdp)
        check_module(net)
        placing = {"channels_last": channels_last, "fsdp": fsdp, "deepspeed": deepspeed}
        super().__init__(net, loss_fn, metrics_dict, forward, unknown, **placing)
        loss_parameters = dict(self.objective.named_parameters(net))
        self.optimizer = make_optimizer(optimizer, net, loss_parameters.values())
        self.lr_scheduler = None
        if self.optimizer is not None:  # there is something to train
            check_optimizer(self.optimizer, net, loss_parameters)
            self.lr_scheduler = make_scheduler(lr_scheduler, self.optimizer)
        self.compilation = Compilation() if jit_compile else None
        self.ckpt_path: str | Path | None = None
        self.stop_training = False
        self.metric_tasks: dict[str, str] = {}

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
        resume: bool | str | Path = False,
        save_every_n_steps: int | None = None,
        save_every_minutes: float | None = None,
        keep: int = 2,
        async_save: bool = False,
        on_save_error: str = "raise",
        elastic: bool = False,
        sync_batchnorm: bool = False,
        find_unused_parameters: bool = False,
        deterministic: bool = False,
        **unknown: Any,
    ) -> pd.DataFrame:
        """Train the net; return the history of all fits, one row per epoch.

        A second call goes on where the first stopped: same optimizer state, epochs count on.

        Args:
            train_data: A DataLoader, a Dataset, `(x, y)` or `(x, y, sample_weight)` of tensors,
                arrays, DataFrames or dicts of them, or any iterable of batches.
            val_data: The same, for validation after each epoch; several sets by name, as
                `{"clean": ..., "noisy": ...}`, give figures such as `val_clean_loss`.
            epochs: How many epochs to train; with `initial_epoch` or `resume` the number of the
                last.
            ckpt_path: A folder for `best.safetensors`, the weights of the best epoch, for
                `history.csv`, and for a checkpoint after each epoch, to resume from. An earlier
                run that is there is moved to `<ckpt_path>.previous`.
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
            verbose: 0 silent, 1 a live line and a table, 2 a line per epoch; "auto": 1 or, where
                there is no terminal, 2.
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
            num_workers: Processes that read samples out of a Dataset; "auto": none until they pay.
            resume: True goes on with the newest whole checkpoint in `ckpt_path`, also in the middle
                of an epoch, and ends with the same bits as a run without interruption; it begins
                afresh where there is none, and returns the history of a run that is complete. A
                path goes on with that checkpoint, or that run.
            save_every_n_steps: Save a checkpoint every so many updates too.
            save_every_minutes: Save a checkpoint every so many minutes too.
            keep: How many checkpoints to keep.
            async_save: Write checkpoints in a thread while training goes on.
            on_save_error: "raise", or "warn" where a full disk should not end training; the third
                failure in a row does.
            elastic: Let `resume` go on with another number of processes, or another batch size.
            sync_batchnorm: Of several processes: normalize over the batches of all.
            find_unused_parameters: Of several processes: allow parameters that a step's loss does
                not depend on, which costs a look for them in each.
            deterministic: On a GPU, the same bits each time: torch's deterministic algorithms, for
                this fit. They are slower, and torch raises an error where there is none.

        Returns:
            The columns epoch (from 1), train_loss, train_<metric>, train_<term of the objective>,
            lr, the same for val_, and seconds; NaN where nothing was measured.

        Raises:
            DataError: The data is empty or malformed; a batch's shape does not fit net or loss.
            NonFiniteError: The training loss became NaN or infinite.
            ValueError: An argument is out of range or does not go with the others.
            TypeError: An argument is unknown or of the wrong type.
            CheckpointError: A checkpoint can't be written, or is not one of this run.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was saved where there is a `ckpt_path`,
                and history and best weights were put in order.
            Preempted: SIGTERM, likewise; a SystemExit with code 143.
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
            seeded=seed is not None,
            max_time=max_time,
            clip_grad_norm=clip_grad_norm,
            clip_grad_value=clip_grad_value,
            scheduler_step=scheduler_step,
            train_metrics=train_metrics,
            num_workers=num_workers,
            resume=resume,
            save_every_n_steps=save_every_n_steps,
            save_every_minutes=save_every_minutes,
            keep=keep,
            async_save=async_save,
            on_save_error=on_save_error,
            elastic=elastic,
            sync_batchnorm=sync_batchnorm,
            find_unused_parameters=find_unused_parameters,
            deterministic=deterministic,
        )
        with undisturbed_randomness(), deterministic_algorithms(deterministic):
            self._fit(train_data, val_data, arguments)
        return self.history.frame

    def _fit(self, train_data: Any, val_data: Any, arguments: FitArguments) -> None:
        self.stop_training = False
        self.ckpt_path = arguments.ckpt_path
        processes = self.place(arguments.mixed_precision, arguments.cpu).processes
        with together(processes, "fit"):
            arguments = check_alike(self, arguments, processes)
        going = together(processes, "fit", self.reached)
        with going, run_folder(arguments, processes) as folder:
            run = begin(self, train_data, val_data, arguments, folder)
            try:
                fit(run)
                if folder is not None:
                    folder.complete = not run.pauses
            except KeyboardInterrupt:
                if not in_notebook():
                    raise
            finally:
                run.close()
            share_results(self, processes)
