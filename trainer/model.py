"""KerasModel: train, evaluate, run, save and plot any torch.nn.Module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fitorch.checkpoint.weights import file_of, load_weights, save_weights
from fitorch.data.column_names import column_names
from fitorch.deepspeed.settings import check_deepspeed
from fitorch.distributed.dtensor import gather_full
from fitorch.distributed.fsdp import check_fsdp
from fitorch.distributed.processes import together
from fitorch.engine.arguments import FitArguments
from fitorch.engine.base_model import BaseModel
from fitorch.engine.loop import fit
from fitorch.fitting import evaluate as evaluation
from fitorch.fitting import lr_finder, spawn
from fitorch.fitting.foreign_arguments import explains_calls, refuse_apart, refuse_unknown
from fitorch.fitting.rank_consistency import broadcast_results, check_rank_consistency
from fitorch.fitting.start import run_folder, start
from fitorch.inspection import plots
from fitorch.nets.state import check_module, plain_state
from fitorch.optim.optimizers import OptimizerLike
from fitorch.resume.checkpoint_saver import save_to
from fitorch.resume.restore import restore_model

from .checks import check_flag, plain
from .environment import in_notebook
from .randomness import deterministic_algorithms, undisturbed_randomness

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .summary import Summary


class KerasModel(BaseModel):
    """Train, evaluate and run any `nn.Module`.

    Args:
        net: The module. It is trained in place, and remains usable without fitorch.
        loss_fn: Maps `(y_pred, y_true)` to a scalar: a loss of torch.nn, a function, a name such as
            "cross_entropy", or a formula, `FocalLoss() + 1e-3 * L2()`, whose terms get separate
            columns; a mapping or list of these for a net with several outputs. It may return its
            parts, as a mapping or `(loss, mapping)`, which become columns. None if the net returns
            its loss: `.loss` or "loss" (Hugging Face), or a mapping of losses.
        metrics_dict: Name to metric: a torchmetrics object, a function `(y_pred, y_true) -> scalar`
            (averaged over samples), or a name such as "acc". Columns are `train_<name>` and
            `val_<name>`. For several outputs, a mapping for each: `{"sex": {"acc": "acc"}}`.
        optimizer: An instance over the net's parameters, a function `params -> Optimizer`, or a
            name such as "adamw"; None is `Adam(lr=3e-4)`. fitorch builds fused optimizers if
            possible. An optimizer that it has built also trains layers that are added later.
        lr_scheduler: An instance, a function `optimizer -> scheduler`, or None.
        val_loss_fn: The loss of validation and evaluation, if it differs from the one that is
            trained on: for a net that returns something else in eval mode, or for a loss without
            label smoothing. None is `loss_fn`.
        forward: For batches of any other form: `forward(net, batch) -> (predictions, targets)`.
        step: For what no loss describes: `step(model, batch)` calls `model.backward(loss)` and
            `model.update(name)`, and returns figures by name. A subclass may define the methods
            `train_step`, `test_step` and `predict_step` instead, of (self, batch).
        jit_compile: Compile whole training steps with torch.compile, which takes seconds to minutes
            before it pays off. If a step cannot be compiled, a warning gives the reason, and
            training continues uncompiled.
        channels_last: Keep images (N, C, H, W), and weights of convolutions, in channels-last
            memory, which is faster for most convolutional nets; results differ by rounding.
        device: "cuda:1", "mps", "cpu", a number, or a torch.device; None lets accelerate choose.
            With several processes the launcher gives each its own, and only the type counts.
        data_on_device: Keep data in memory on the accelerator if it takes at most half of the
            memory that is free once the net has trained; False sends it batch by batch.
        fsdp: With several processes, True shards each weight of the net over them (FSDP2), for nets
            that do not fit on one device; or an accelerate `FullyShardedDataParallelPlugin` with
            options. None is accelerate's configuration.
        deepspeed: With several processes, True lets DeepSpeed partition gradients and optimizer
            state (ZeRO-2), while each process holds the whole net; or DeepSpeed's configuration,
            its file, or an accelerate `DeepSpeedPlugin`. None is accelerate's configuration.

    Attributes:
        net: The net; with `fsdp` and several processes it is sharded.
        optimizer: The optimizer that was passed or built.
        history: The `History` of all fits: `.frame`, `.best`, `.plot()`, `.to_html()`.
        ckpt_path: The folder with the best weights of the last fit, or None.
        metric_tasks: The task of each metric that was passed by name, as "multiclass, 10 classes".
        stop_training: Set it to True in a callback to stop after the current batch; likewise
            `stop_evaluating` and `stop_predicting`.
        StepRunner: torchkeras' extension point, a class that runs a whole step; None unless it is
            set on the class or a subclass. Other keyword arguments of KerasModel are passed to it.
        EpochRunner: Likewise, a class that iterates over the batches of an epoch.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The optimizer belongs to another net, a name is unknown, this machine does not
            have the device, or both fsdp and deepspeed are requested.

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

    def __init__(  # noqa: PLR0913 - what a model consists of, by name
        self,
        net: nn.Module,
        loss_fn: Any = None,
        metrics_dict: Mapping[str, Any] | None = None,
        optimizer: OptimizerLike = None,
        lr_scheduler: Any = None,
        *,
        val_loss_fn: Any = None,
        forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        step: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        jit_compile: bool = False,
        channels_last: bool = False,
        device: str | int | torch.device | None = None,
        data_on_device: bool = True,
        fsdp: Any = None,
        deepspeed: Any = None,
        **unknown: Any,
    ) -> None:
        jit_compile = check_flag("jit_compile", jit_compile)
        channels_last = check_flag("channels_last", channels_last)
        data_on_device = check_flag("data_on_device", data_on_device)
        fsdp, deepspeed = plain(fsdp), plain(deepspeed)
        check_fsdp(fsdp)
        check_deepspeed(deepspeed, fsdp)
        check_module(net)
        if self.StepRunner is None:
            refuse_unknown(unknown, "KerasModel")
        super().__init__(
            net,
            loss_fn,
            metrics_dict,
            optimizer,
            lr_scheduler,
            val_loss_fn=val_loss_fn,
            forward=forward,
            step=step,
            jit_compile=jit_compile,
            extra=unknown,
            device=plain(device),
            channels_last=channels_last,
            data_on_device=data_on_device,
            fsdp=fsdp,
            deepspeed=deepspeed,
        )

    @explains_calls
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
        batch_size: int | None = 32,
        shuffle: bool = True,
        validation_split: float = 0.0,
        validation_freq: int = 1,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        initial_epoch: int | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
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

        A second call continues training, with the same optimizer state and epoch count.

        Args:
            train_data: A DataLoader, a Dataset, `(x, y)` or `(x, y, sample_weight)` of tensors,
                arrays, DataFrames or dicts of them, or any iterable of batches.
            val_data: The same, for validation after each epoch; several sets by name, as
                `{"clean": ..., "noisy": ...}`, add columns such as `val_clean_loss`.
            epochs: The number of epochs to train; with `initial_epoch` or `resume`, the number of
                the last epoch.
            ckpt_path: A folder for `best.safetensors`, the weights of the best epoch, for
                `history.csv`, and for a checkpoint after each epoch, to resume from. An earlier
                run in this folder is moved to `<ckpt_path>.previous`.
            patience: Stop after this many epochs without improvement of `monitor`; None for never.
            monitor: The value that decides which epoch is best; `train_loss` without validation.
            mode: "min", "max", or "auto": "min" for losses, else the direction of the metric.
            callbacks: Objects with Keras' hooks.
            plot: True writes `history.png` to `ckpt_path`; a path writes to that file.
            wandb: True or the name of a project adds `WandbCallback(project)` after the other
                callbacks.
            batch_size: Samples in a batch; None says that the data consists of batches.
            shuffle: Draw a new order for each epoch, if the data does not consist of batches.
            validation_split: The fraction of `(x, y)` to validate on: the last, before shuffling.
            validation_freq: The number of epochs between two validations.
            steps_per_epoch: Batches in an epoch; the next epoch continues with the next batch.
            validation_steps: Batches to validate on, always from the first; an iterator, which
                cannot restart, continues with its next ones.
            initial_epoch: Epochs to count as completed.
            class_weight: Class number to weight, or a sequence with a weight for each class, in the
                training loss. Targets are class numbers, rounded if they are smoothed, or class
                probabilities, whose largest counts; several labels per sample are refused.
            verbose: 0 for silent, 1 for a live line and a table, 2 for a line per epoch; "auto" is
                1, or 2 without a terminal.
            mixed_precision: "no", "fp16" or "bf16"; None is accelerate's configuration.
            cpu: Train on the CPU even if there is an accelerator.
            gradient_accumulation_steps: Batches per update.
            seed: The seed of all random numbers in this fit; None draws one from torch's global
                generator. The global generators are restored afterwards.
            max_time: Stop after a timedelta, seconds, or "HH:MM:SS".
            clip_grad_norm: Scale gradients down to this 2-norm before an update.
            clip_grad_value: Clamp each gradient to [-value, value] before an update.
            scheduler_step: When the schedule steps: "update", "epoch", "validation", or "auto".
            train_metrics: Whether to measure the metrics in training too; the loss always is.
            num_workers: Processes that read samples of a Dataset; "auto" starts them if reading is
                slow.
            resume: True resumes the newest intact checkpoint in `ckpt_path`, also in the middle of
                an epoch, and ends with the same bits as an uninterrupted run. Without a checkpoint
                it starts a new run; if the run is complete, it returns its history. A path resumes
                that checkpoint or that run.
            save_every_n_steps: Also save a checkpoint after this many updates.
            save_every_minutes: Also save a checkpoint after this many minutes.
            keep: The number of checkpoints to keep.
            async_save: Write checkpoints in a thread while training continues.
            on_save_error: "raise", or "warn" to continue training on a full disk; the third failure
                in a row raises an error.
            elastic: Allow `resume` with another number of processes, or another batch size.
            sync_batchnorm: With several processes, normalize over the batches of all of them.
            find_unused_parameters: With several processes, allow parameters that the loss of a step
                does not depend on; looking for them costs time in each step.
            deterministic: On a GPU, use torch's deterministic algorithms in this fit, so that each
                run has the same bits. They are slower, and torch raises an error if there is none.

        Returns:
            The columns epoch (from 1), train_loss, train_<metric>, train_<term of the objective>,
            lr, the same with val_, and seconds; NaN for values that were not measured.

        Raises:
            DataError: The data is empty or malformed, or a batch does not fit the net or the loss.
            NonFiniteError: The training loss became NaN or infinite.
            ValueError: An argument is out of range or contradicts another one.
            TypeError: An argument is unknown or of the wrong type.
            CheckpointError: A checkpoint cannot be written, or belongs to a different run.
            KeyboardInterrupt: Ctrl-C was received. If there is a `ckpt_path`, a checkpoint was
                saved; history and best weights are up to date.
            Preempted: SIGTERM was received, likewise; a SystemExit with code 143.
        """
        refuse_unknown(unknown, "fit")
        if self.forward_hook is None and not self.has_own_step:
            refuse_apart(train_data, val_data)
        arguments = FitArguments.of_call(locals())
        with (
            self.on_device(cpu),
            undisturbed_randomness(),
            deterministic_algorithms(deterministic),
        ):
            self._fit(train_data, val_data, arguments)
        return self.history.frame

    def _fit(self, train_data: Any, val_data: Any, arguments: FitArguments) -> None:
        self.stop_training = False
        self.ckpt_path = arguments.ckpt_path
        # Before the net is placed, which may replace its parameters.
        self.train_new_parameters()
        processes = self.place(arguments.mixed_precision, arguments.cpu).processes
        # Checked before the folder is opened, so that processes that differ change nothing on disk.
        with together(processes, "fit"):
            arguments = check_rank_consistency(self, arguments, processes)
        shared_failure = together(processes, "fit", self.reached)
        with shared_failure, run_folder(arguments, processes) as folder:
            run = start(self, train_data, val_data, arguments, folder)
            self.columns = {**self.columns, **column_names(train_data)}
            try:
                fit(run)
                if folder is not None:
                    folder.complete = not run.pauses
            except KeyboardInterrupt:
                if not in_notebook():
                    raise
            finally:
                run.close()
            broadcast_results(self, processes)

    @explains_calls
    def evaluate(
        self,
        val_data: Any,
        *,
        batch_size: int | None = 32,
        steps: int | None = None,
        verbose: int | str = "auto",
        callbacks: Sequence[Any] | None = None,
        num_workers: int | str = "auto",
        **unknown: Any,
    ) -> dict[str, float]:
        """Measure loss and metrics over `val_data`, without side effects, also in a callback.

        Args:
            val_data: As for `fit`, including several sets by name.
            batch_size: Samples in a batch; None says that the data consists of batches.
            steps: The number of batches to measure, from the first, or the next ones of an
                iterator; None for all.
            verbose: 0 for silent, else a live line on a terminal.
            callbacks: Objects with Keras' `on_test_*` hooks.
            num_workers: As for `fit`.

        Returns:
            `{"val_loss": ..., "val_<metric>": ..., "val_<term of the objective>": ...}`, exact for
            any batch size.

        Raises:
            DataError: The data is empty or malformed.
        """
        refuse_unknown(unknown, "evaluate")
        with self.on_device(), self.measuring():
            return evaluation.evaluate(
                self, val_data, batch_size, steps, verbose, callbacks, num_workers
            )

    @explains_calls
    def predict(
        self,
        data: Any,
        *,
        batch_size: int | None = 32,
        steps: int | None = None,
        verbose: int | str = "auto",
        callbacks: Sequence[Any] | None = None,
        num_workers: int | str = "auto",
        gather: str = "all",
        join: str = "auto",
        **unknown: Any,
    ) -> Any:
        """Return the net's outputs for all of `data`, in its order, on the CPU.

        The outputs of the batches are joined along the dimension of the samples: 0, or 1 for
        sequences of shape (T, N, C). A list of N entries is N predictions. Keys that the
        configuration of a Hugging Face net ignores at inference are left out.

        Args:
            data: Features: a tensor, an array, a DataFrame, a dict for nets with named inputs; or
                anything that `fit` takes, whose targets are ignored. A tuple is `(x, y)`; for
                several inputs pass `((x1, x2),)`.
            batch_size: Samples in a batch; None says that the data consists of batches.
            steps: The number of batches to predict; None for all.
            verbose: 0 for silent, else a live line on a terminal.
            callbacks: Objects with Keras' `on_predict_*` hooks.
            num_workers: As for `fit`.
            gather: With several processes, "all" returns all outputs in each of them; "main"
                returns them only in the main process and None in the others, which saves memory.
            join: "auto" joins what has a row for each sample; other parts, such as a scalar, a
                cache or sequences of different lengths, are lists with one entry per batch. "pad"
                pads such sequences with zeros instead; "list" returns the outputs batch by batch.

        Returns:
            The outputs in the structure that the net returns, with a row for each sample.

        Raises:
            DataError: The data is empty, or no dimension of the outputs is that of the samples.
        """
        refuse_unknown(unknown, "predict")
        with self.on_device(), self.measuring():
            return evaluation.predict(
                self, data, batch_size, steps, verbose, callbacks, num_workers, gather, join
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net."""
        return self.net(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net."""
        return self.net(*args, **kwargs)

    def save_ckpt(
        self, ckpt_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write the net's weights to a file, which is replaced atomically.

        Args:
            ckpt_path: A file: safetensors, or torch's format for `.pt`, `.pth` and `.bin`; or a
                folder, for a file `best.safetensors` in it. Both load in torch without fitorch.
                None is the folder of the last fit.
            metadata: Strings to store in a safetensors file.

        Returns:
            The file. Trainable parameters of the loss are written to a second file beside it,
            `best.loss.safetensors`. With several processes, only the main one writes.

        Raises:
            ValueError: No path was passed, and no fit had a `ckpt_path`.
        """
        path = self._path_or_last(ckpt_path)
        with self.measuring():
            states = {"net": plain_state(self.net), "loss": self.objective.module.state_dict()}
            return self.save_states(states, path, metadata)

    def save_states(
        self, states: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write the state dicts "net" and "loss" as `save_ckpt` does."""
        main = self.is_main_process
        # All ranks take part, though only one writes: gathering sharded tensors needs them.
        states = {name: gather_full(state, keep=main) for name, state in states.items()}
        if not main:
            return file_of(path)
        file = save_weights(states["net"], path, metadata)
        if self._loss_learns:
            save_weights(states["loss"], _beside(file), metadata)
        return file

    def load_ckpt(self, ckpt_path: str | Path | None = None) -> Path:
        """Load weights that `save_ckpt`, `fit(ckpt_path=...)` or `torch.save` has written.

        Trainable parameters of the loss are loaded from the second file beside it.

        Args:
            ckpt_path: The file, or a folder with a `best.safetensors`; None is the folder of the
                last fit.

        Raises:
            ValueError: No path was passed, and no fit had a `ckpt_path`.
            FileNotFoundError: The file does not exist.
            RuntimeError: Names or shapes differ from those of the net.
        """
        file = load_weights(self.net, self._path_or_last(ckpt_path))
        if self._loss_learns:
            self._load_loss(_beside(file))
        return file

    def _path_or_last(self, path: str | Path | None) -> str | Path:
        last = self.ckpt_path if path is None else path
        if last is None:
            message = "no path was passed, and no fit of this model had a ckpt_path; pass a path"
            raise ValueError(message)
        return last

    def _load_loss(self, file: Path) -> None:
        if file.is_file():
            load_weights(self.objective.module, file)
        else:
            warnings.warn(
                f"the file {file} with the parameters of the loss does not exist; the loss keeps "
                "its current parameters",
                stacklevel=3,
            )

    def restore(self, path: str | Path) -> Path:
        """Restore weights, optimizer, schedule, history and counters from a checkpoint.

        The next `fit` continues after the completed epochs of the checkpoint. To resume in the
        middle of an epoch, with the same random numbers, use `fit(resume=path)`.

        Args:
            path: A checkpoint, or the folder of a run, whose newest checkpoint is restored.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: There is no checkpoint, it is damaged, or it belongs to another net or
                optimizer.
        """
        return restore_model(self, path)

    def save_state(self, path: str | Path) -> Path:
        """Save the training state of the current fit; call it in a callback.

        Args:
            path: A separate folder, from which `fit(resume=path)` resumes.

        Returns:
            The checkpoint, a folder in `path`.

        Raises:
            RuntimeError: No fit is running, or an update is incomplete.
            CheckpointError: The checkpoint cannot be written, or a state cannot be stored.
        """
        if self.run is None or self.within_update:
            reason = "no fit is running" if self.run is None else "an update is incomplete"
            message = (
                f"save_state needs a fit between two updates, but {reason}; call it in a callback, "
                "after an update"
            )
            raise RuntimeError(message)
        return save_to(path, self.run)

    def fit_ddp(
        self, num_processes: int, train_data: Any, val_data: Any = None, **options: Any
    ) -> pd.DataFrame:
        """Train in several new processes, one for each device; this model is updated afterwards.

        It works in a notebook or a plain script, without `if __name__ == "__main__"`. Model, data
        and callbacks are copied to the processes; the attributes of callbacks are not copied back.

        Args:
            num_processes: The number of processes: at most one for each GPU, or any number on CPUs.
                Each has batches of `batch_size`.
            train_data: As for `fit`.
            val_data: As for `fit`.
            options: The other arguments of `fit`.

        Returns:
            The history, as from `fit`; net, optimizer and history are those after training.

        Raises:
            TypeError: An argument cannot be copied to another process.
            ValueError: There are fewer devices than processes.
            RankError: A process vanished. Other errors of a process are raised as they are.
        """
        data = {"train_data": train_data, "val_data": val_data}
        return spawn.fit_ddp(self, num_processes, {**data, **options})

    def evaluate_ddp(self, num_processes: int, val_data: Any, **options: Any) -> dict[str, float]:
        """Evaluate in several new processes, each on a part of the data; see `fit_ddp`.

        Args:
            num_processes: The number of processes.
            val_data: As for `evaluate`.
            options: The other arguments of `evaluate`.

        Returns:
            The values, as from `evaluate`; they do not depend on the number of processes.
        """
        return spawn.evaluate_ddp(self, num_processes, {"val_data": val_data, **options})

    def find_lr(
        self,
        train_data: Any,
        *,
        start: float = 1e-7,
        end: float = 10.0,
        steps: int = 100,
        batch_size: int | None = 32,
        seed: int | None = None,
        plot: str | Path | None = None,
    ) -> pd.DataFrame:
        """Find a learning rate: train a copy of the model while the rate grows with each batch.

        Model, optimizer, random generators, and those and the epoch of the data do not change.
        Passes start at the beginning of the data. The test stops early if the loss explodes.

        Args:
            train_data: As for `fit`, except generators, which can be read only once.
            start: The first rate.
            end: The last rate.
            steps: Batches to train on; their rates are spaced evenly on a logarithmic scale.
            batch_size: Samples in a batch; None says that the data consists of batches.
            seed: The seed of all random numbers in the test.
            plot: A file for the plot of the loss over the rate, or None.

        Returns:
            The columns lr, loss (of the batch) and smoothed (its exponential mean). A tenth of the
            rate at which the smoothed loss is least is `frame.attrs["suggestion"]`.

        Raises:
            ValueError: An argument is out of range.
            TypeError: `train_data` is a generator.
            RuntimeError: An earlier fit has sharded the net over processes (`fsdp`).

        Source: Smith, 2017, Cyclical learning rates for training neural networks, section 3.3.
        """
        return lr_finder.find_lr(self, train_data, start, end, steps, batch_size, seed, plot)

    def summary(self, features: Any = None, **how: Any) -> Summary:
        """Show the layers of the net: output shapes, numbers of parameters, and memory.

        Args:
            features: A batch of features, or a DataLoader or Dataset, whose first batch is used.
            how: The other arguments of `fitorch.summary`: `input_shape=(3, 32, 32)`, `input_dtype`,
                `batch_size`, `depth`, `verbose`.

        Returns:
            The table: `str` returns its text, a notebook displays it.

        Raises:
            ShapeError: A layer rejects the shape of its input; the layers before it are printed.
        """
        from .summary import summary

        return summary(self.net, features, **how)

    def plot_confusion_matrix(
        self,
        data: Any,
        *,
        labels: Sequence[Any] | None = None,
        normalize: str | None = None,
        path: str | Path | None = None,
        **reading: Any,
    ) -> Figure:
        """Plot the confusion matrix: the counts of predicted classes for each true class.

        Args:
            data: As for `evaluate`; it is read batch by batch.
            labels: The names of the classes; by default their numbers.
            normalize: None for counts; "true", "pred" or "all" for fractions of each row, of each
                column, or of all samples.
            path: The file for the plot; its suffix decides the format.
            reading: `batch_size`, `steps`, `verbose` and `num_workers` as for `predict`; `output`
                is the name of one of several outputs.

        Returns:
            The matplotlib figure; a notebook displays it as the result of a cell.

        Raises:
            ValueError: The task is not a classification, or the number of `labels` differs.
        """
        return plots.plot_confusion_matrix(self, data, labels, normalize, path, **reading)

    def plot_roc(
        self,
        data: Any,
        *,
        labels: Sequence[Any] | None = None,
        path: str | Path | None = None,
        **reading: Any,
    ) -> Figure:
        """Plot the ROC curve, with several classes each against the rest, and the exact AUC.

        Args:
            data: As for `evaluate`; sample weights count.
            labels: The names of the classes; by default their numbers.
            path: The file for the plot; its suffix decides the format.
            reading: As for `plot_confusion_matrix`.

        Returns:
            The matplotlib figure; a notebook displays it as the result of a cell.

        Raises:
            ValueError: The task is not a classification, or a prediction is NaN.
        """
        return plots.plot_roc(self, data, labels, path, **reading)

    def plot_residuals(
        self,
        data: Any,
        *,
        labels: Sequence[Any] | None = None,
        path: str | Path | None = None,
        **reading: Any,
    ) -> Figure:
        """Plot predictions over targets, with R2, and the distribution of the residuals.

        Args:
            data: As for `evaluate`.
            labels: The names of the targets, if there are several.
            path: The file for the plot; its suffix decides the format.
            reading: As for `plot_confusion_matrix`.

        Returns:
            The matplotlib figure; a notebook displays it as the result of a cell.

        Raises:
            ValueError: The task is a classification.
        """
        return plots.plot_residuals(self, data, labels, path, **reading)

    def export(self, path: str | Path, features: Any = None) -> Path:
        """Export the net to a file that runs without its code, for any number of samples.

        The net is traced with one batch, in eval mode and on the CPU; modes and device are restored
        afterwards. The file is replaced atomically.

        Args:
            path: A file. `.pt2` is torch's format (`torch.export.load(path).module()(x)`), `.onnx`
                runs in other runtimes (needs onnx and onnxscript), `.safetensors` contains only
                the weights, as `save_ckpt` writes them.
            features: A batch of features as the net takes them: a tensor, an array, a tuple or list
                for several inputs, a mapping for named ones; or a DataLoader or Dataset, whose
                first batch is used. It is not needed for weights.

        Returns:
            The file. With several processes, only the main one writes.

        Raises:
            ValueError: The suffix is none of these, or there are no features.
            ImportError: A package is missing; the message contains its name.
            ExportError: The net cannot be traced, for instance because its code depends on values;
                a RuntimeError whose message contains the reason.
        """
        if Path(path).suffix == ".safetensors":
            return self.save_ckpt(path)
        from fitorch.inspection.export import export

        return export(self, path, features)

    def card(self) -> dict[str, Any]:
        """Return the content of a model card: net, objective, results, data, settings, versions.

        Returns:
            Values that can be written as JSON: net, parameters, trainable_parameters, loss,
            metrics, optimizer, epochs, best (monitor, mode, epoch, value, figures) and seed; after
            a fit in this process also data, settings, environment (versions, device), git (commit,
            branch, changed), trained (its beginning, UTC), seconds, status, reason and
            weights_of_epoch.
        """
        from fitorch.inspection.card import card

        return card(self)


def _beside(file: Path) -> Path:
    """Return the file for the parameters of the loss: best.loss.safetensors."""
    return file.with_name(f"{file.stem}.loss{file.suffix}")
