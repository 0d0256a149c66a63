"""KerasModel: fit, evaluate and predict around any torch.nn.Module, and what else users call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fitorch.checkpoint.weights import file_of, load_weights, save_weights
from fitorch.deepspeed.settings import check_deepspeed
from fitorch.distributed.dtensor import gather_full
from fitorch.distributed.fsdp import check_fsdp
from fitorch.distributed.processes import together
from fitorch.engine.arguments import FitArguments
from fitorch.engine.base_model import BaseModel
from fitorch.engine.loop import fit
from fitorch.fitting import evaluate as evaluating
from fitorch.fitting import lr_finder as range_test
from fitorch.fitting import spawn as launches
from fitorch.fitting.foreign_arguments import refuse_unknown
from fitorch.fitting.rank_consistency import broadcast_results, check_rank_consistency
from fitorch.fitting.start import run_folder, start
from fitorch.inspection import plots as pictures
from fitorch.nets.state import check_module, plain_state
from fitorch.optim.optimizers import OptimizerLike
from fitorch.resume.restore import restore_model
from fitorch.resume.saving import save_to

from .checks import check_flag
from .environment import in_notebook
from .randomness import deterministic_algorithms, undisturbed_randomness

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .summary import Summary


class KerasModel(BaseModel):
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
            forward=forward,
            jit_compile=jit_compile,
            extra=unknown,
            channels_last=channels_last,
            fsdp=fsdp,
            deepspeed=deepspeed,
        )

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
        arguments = FitArguments.of_call(locals())
        with undisturbed_randomness(), deterministic_algorithms(deterministic):
            self._fit(train_data, val_data, arguments)
        return self.history.frame

    def _fit(self, train_data: Any, val_data: Any, arguments: FitArguments) -> None:
        self.stop_training = False
        self.ckpt_path = arguments.ckpt_path
        processes = self.place(arguments.mixed_precision, arguments.cpu).processes
        with together(processes, "fit"):
            arguments = check_rank_consistency(self, arguments, processes)
        going = together(processes, "fit", self.reached)
        with going, run_folder(arguments, processes) as folder:
            run = start(self, train_data, val_data, arguments, folder)
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
        return evaluating.evaluate(
            self, val_data, batch_size, steps, verbose, callbacks, num_workers
        )

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
        return evaluating.predict(
            self, data, batch_size, steps, verbose, callbacks, num_workers, gather
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
        """Write the net's weights to a file, replaced only once all is written.

        Args:
            ckpt_path: A file: safetensors, or torch's format for `.pt`, `.pth` and `.bin`; or a
                folder, which gets a `best.safetensors`. Both load in plain torch, without fitorch.
                None is the folder of the last fit.
            metadata: Strings to keep in a safetensors file.

        Returns:
            The file. Where the loss has parameters of its own, they are beside it:
            `best.loss.safetensors`. Of several processes the main one writes.

        Raises:
            ValueError: There is no path, and no fit had one.
        """
        path = self._path_or_last(ckpt_path)
        states = {"net": plain_state(self.net), "loss": self.objective.module.state_dict()}
        return self.save_states(states, path, metadata)

    def save_states(
        self, states: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write weights as `save_ckpt` does, given as state dicts of "net" and "loss"."""
        main = self.is_main_process
        states = {name: gather_full(state, keep=main) for name, state in states.items()}
        if not main:
            return file_of(path)
        file = save_weights(states["net"], path, metadata)
        if self._loss_learns:
            save_weights(states["loss"], _beside(file), metadata)
        return file

    def load_ckpt(self, ckpt_path: str | Path | None = None) -> Path:
        """Load weights that `save_ckpt`, `fit(ckpt_path=...)` or `torch.save` wrote.

        Parameters of the loss, where it has some, come from the file beside it.

        Args:
            ckpt_path: The file, or a folder with a `best.safetensors`; None is the folder of the
                last fit.

        Raises:
            ValueError: There is no path, and no fit had one.
            FileNotFoundError: There is no such file.
            RuntimeError: Names or shapes differ from the net's.
        """
        file = load_weights(self.net, self._path_or_last(ckpt_path))
        if self._loss_learns:
            self._load_loss(_beside(file))
        return file

    def _path_or_last(self, path: str | Path | None) -> str | Path:
        last = self.ckpt_path if path is None else path
        if last is None:
            message = "there is no path, and no fit of this model had a ckpt_path; pass one"
            raise ValueError(message)
        return last

    def _load_loss(self, file: Path) -> None:
        if file.is_file():
            load_weights(self.objective.module, file)
        else:
            warnings.warn(
                f"there are no parameters of the loss at {file}; it keeps those it has",
                stacklevel=3,
            )

    def restore(self, path: str | Path) -> Path:
        """Put a checkpoint into the model: weights, optimizer, schedule, history, counters.

        The next `fit` goes on after the epochs that are completed there. To go on in the middle of
        an epoch, and with the same random numbers, use `fit(resume=path)`.

        Args:
            path: A checkpoint, or the folder of a run, whose newest is taken.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: There is none, it is broken, or it is of another net or optimizer.
        """
        return restore_model(self, path)

    def save_state(self, path: str | Path) -> Path:
        """Save all of the state of the fit that is under way, from within a callback.

        Args:
            path: A folder of its own, to go on with: `fit(resume=path)`.

        Returns:
            The checkpoint, a folder in it.

        Raises:
            RuntimeError: There is no fit under way, or it is between the batches of one update.
            CheckpointError: It can't be written, or a state can't be stored.
        """
        if self.run is None or self.within_update:
            where = "no fit is under way" if self.run is None else "an update is under way"
            message = f"save_state saves a fit between two updates, but {where}"
            raise RuntimeError(message)
        return save_to(path, self.run)

    def fit_ddp(
        self, num_processes: int, train_data: Any, val_data: Any = None, **options: Any
    ) -> pd.DataFrame:
        """Train in several new processes, one for each device; then the net here is trained.

        It starts them from a notebook or a plain script, which needs no `if __name__ ==
        "__main__"`. Model, data and callbacks are copied to them; what callbacks learn stays there.

        Args:
            num_processes: How many: the number of GPUs, or any number on CPUs. `batch_size` is for
                each of them.
            train_data: As for `fit`.
            val_data: As for `fit`.
            options: What else `fit` takes.

        Returns:
            What `fit` returns; net, optimizer and history are as after a fit here.

        Raises:
            TypeError: Something can't be copied to another process.
            ValueError: There are fewer devices than processes.
            RankError: A process vanished. What else a process raised is raised here.
        """
        data = {"train_data": train_data, "val_data": val_data}
        return launches.fit_ddp(self, num_processes, {**data, **options})

    def evaluate_ddp(self, num_processes: int, val_data: Any, **options: Any) -> dict[str, float]:
        """Measure in several new processes, each a part of the data; see `fit_ddp`.

        Args:
            num_processes: How many.
            val_data: As for `evaluate`.
            options: What else `evaluate` takes.

        Returns:
            What `evaluate` returns: the same figures as in one process.
        """
        return launches.evaluate_ddp(self, num_processes, {"val_data": val_data, **options})

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
            The columns lr, loss (of the batch) and smoothed (its exponential mean); a tenth of the
            rate at which the latter is least is `frame.attrs["suggestion"]`.

        Raises:
            ValueError: An argument is out of range.
            TypeError: `train_data` is a generator.
            RuntimeError: The net is spread over processes (`fsdp`) by an earlier fit.

        Source: Smith, 2017, Cyclical learning rates for training neural networks, section 3.3.
        """
        return range_test.find_lr(self, train_data, start, end, steps, batch_size, seed, plot)

    def summary(self, features: Any = None, **how: Any) -> Summary:
        """Show the net's layers: what each gives for a batch, parameters, memory.

        Args:
            features: A batch of features, or a DataLoader or Dataset, whose first batch is taken.
            how: What else `fitorch.summary` takes: `input_shape=(3, 32, 32)`, `input_dtype`,
                `batch_size`, `depth`, `verbose`.

        Returns:
            The table: `str` is its text, a notebook shows it as it is.

        Raises:
            ShapeError: A layer rejects the shape of what it gets; the layers up to it are printed.
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

    def export(self, path: str | Path, features: Any = None) -> Path:
        """Write the net to a file that runs without its code, for any number of samples.

        It is followed through one batch, in eval mode and on the CPU; modes and device are as
        before afterwards. The file is replaced only once all is written.

        Args:
            path: A file. `.pt2` is torch's own (`torch.export.load(path).module()(x)`), `.onnx`
                runs anywhere (needs onnx and onnxscript), `.safetensors` holds the weights alone,
                as `save_ckpt` writes them.
            features: A batch of features as the net takes them: a tensor, an array, a tuple or list
                for several inputs, a mapping for named ones; or a DataLoader or Dataset, whose
                first batch is taken. Weights need none.

        Returns:
            The file. Of several processes the main one writes.

        Raises:
            ValueError: The suffix is none of these, or there are no features.
            ImportError: A package is missing; it says which.
            ExportError: The net can't be followed, as where its code looks at values; a
                RuntimeError that says why.
        """
        if Path(path).suffix == ".safetensors":
            return self.save_ckpt(path)
        from fitorch.inspection.export import export

        return export(self, path, features)

    def card(self) -> dict[str, Any]:
        """Return what a model card needs: net, objective, figures, data, settings, versions.

        Returns:
            Plain values that json takes: net, parameters, trainable_parameters, loss, metrics,
            optimizer, epochs, best (monitor, mode, epoch, value, figures) and seed; after a fit of
            this process also data, settings, environment (versions, device), git (commit, branch,
            changed), trained (when it began, UTC), seconds, status, reason and weights_of_epoch.
        """
        from fitorch.inspection.card import card

        return card(self)


def _beside(file: Path) -> Path:
    """Return the file for the loss' own parameters: best.loss.safetensors."""
    return file.with_name(f"{file.stem}.loss{file.suffix}")
