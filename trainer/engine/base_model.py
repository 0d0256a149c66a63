"""The parts of a model: net, objective, metrics, optimizer, placement, progress."""

from __future__ import annotations

import copy
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from fitorch.data.column_names import Names
from fitorch.devices.accelerators import HOST, chosen_device, current, start
from fitorch.distributed.fsdp import follow
from fitorch.distributed.processes import Processes
from fitorch.engine.custom_step.calls import StepCalls
from fitorch.engine.custom_step.functions import step_functions
from fitorch.engine.step_runner.kit import RunnerKit
from fitorch.engine.steps.compiled import Compilation
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.history.history import History
from fitorch.losses.compose import Composition
from fitorch.losses.objective import Objective
from fitorch.metrics.base import flat
from fitorch.metrics.registry import check_names
from fitorch.optim.copies import complete_copy
from fitorch.optim.optimizers import OptimizerLike
from fitorch.optim.rates import learning_rates

from .checks import check_distinct, check_metrics_dict
from .extra_state import move_extra
from .optimized import Optimized
from .placement import Placement, device_for
from .state import Progress

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator

    from .run import Run


class BaseModel(Optimized, StepCalls, ABC):
    """The state that training, evaluation and prediction share; `KerasModel` adds the methods.

    Args:
        net: The net; this and the next arguments are those of `KerasModel`.
        extra: Other keyword arguments, for a `StepRunner`.
        **placing: `channels_last`, `data_on_device`, `fsdp` and `deepspeed`.

    Attributes:
        run: The current fit, None if no fit is running.
        progress: The counters of epochs, batches and updates, over all fits.
        run_id: The id that the checkpoints of this model carry.
        columns: The columns of the DataFrames of the last fit, by their place in the data.
    """

    EpochRunner: ClassVar[Any] = None

    def __init__(  # noqa: PLR0913 - what a model consists of, as of KerasModel
        self,
        net: nn.Module,
        loss_fn: Any,
        metrics_dict: Mapping[str, Any] | None,
        optimizer: OptimizerLike,
        lr_scheduler: Any,
        *,
        val_loss_fn: Any = None,
        forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        step: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        jit_compile: bool = False,
        device: str | int | torch.device | None = None,
        extra: Mapping[str, Any],
        **placing: Any,
    ) -> None:
        given = set(vars(self))  # attributes that a subclass has set before
        self.metrics_dict = check_metrics_dict(metrics_dict)
        check_names((name, metric) for name, _, metric in flat(self.metrics_dict))
        self.net, self.loss_fn, self.forward_hook, self.kwargs = net, loss_fn, forward, extra
        self.step = step
        metrics = [name for name, _, _ in flat(self.metrics_dict)]
        self.objective = Objective(loss_fn, metrics)
        # Validation and evaluation measure the loss that is trained on, unless they have their own.
        own_loss = val_loss_fn is not None
        self.val_objective = Objective(val_loss_fn, metrics) if own_loss else self.objective
        self.channels_last: bool = placing["channels_last"]
        self.data_on_device: bool = placing["data_on_device"]
        self.device = None if device is None else chosen_device(device)
        self.fsdp, self.deepspeed = placing["fsdp"], placing["deepspeed"]
        # The device is chosen later: placing a model connects the processes and moves the net,
        # which a model that is only inspected does not need.
        self._placement: Placement | None = None
        self.history = History()
        self.progress = Progress()
        self.run_id = uuid.uuid4().hex
        self.run: Run | None = None
        self.columns: Names = {}
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.compilation = Compilation() if jit_compile else None
        self.ckpt_path: str | Path | None = None
        self.metric_tasks: dict[str, str] = {}
        self.stop_training = self.stop_evaluating = self.stop_predicting = False
        self.active_step = None
        # All others are the user's; a step's are part of checkpoints.
        self.own_attributes = frozenset({*vars(self), "own_attributes"} - given)

    @abstractmethod
    def fit(self, train_data: Any, val_data: Any = None, **options: Any) -> pd.DataFrame:
        """Train the net; see `KerasModel.fit`."""

    @abstractmethod
    def evaluate(self, val_data: Any, **options: Any) -> dict[str, float]:
        """Measure loss and metrics; see `KerasModel.evaluate`."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the device and the current fit, which cannot be pickled."""
        return {**vars(self), "_placement": None, "run": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseModel:
        """Return a deep copy, whose optimizer trains the copied net."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(self.__getstate__(), memo))
        complete_copy(self.optimizer, copied.optimizer, memo)
        return copied

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the net's parameters."""
        return self.net.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the net's parameters with their names."""
        return self.net.named_parameters()

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and prints: rank 0, or the only process."""
        return Processes().is_main

    @property
    def accelerator(self) -> Accelerator:
        """Accelerate's object that placed the net."""
        return self.placement.accelerator

    @property
    def placement(self) -> Placement:
        """The device and precision of the net; the first access lets accelerate choose them."""
        return self.place() if self._placement is None else self._placement

    def place(self, mixed_precision: str | None = None, cpu: bool = False) -> Placement:
        """Move net and loss to a device, and choose a precision.

        Args:
            mixed_precision: "no", "fp16" or "bf16"; None for accelerate's configuration.
            cpu: Use the CPU even if there is an accelerator.
        """
        self._placement = Placement(
            mixed_precision,
            HOST if cpu else self.device,
            channels_last=self.channels_last,
            data_on_device=self.data_on_device,
            fsdp=self.fsdp,
            deepspeed=self.deepspeed,
        )
        # The check comes first, because `place` changes the net.
        if self._placement.sharding is not None:
            self._check_shardable()
        # Sharding replaces the net's parameters; the optimizer must train the new ones.
        follow(self.optimizer, self._placement.place(self.net))
        for objective in self.objectives:
            objective.to(self._placement.device)
        move_extra(self, self._placement.device)
        return self._placement

    @contextmanager
    def on_device(self, cpu: bool | None = None) -> Iterator[None]:
        """Make the device torch's current one until the block ends, and start it.

        Args:
            cpu: Whether a fit uses the CPU; None for the device on which the net is.
        """
        if cpu is None and self._placement is not None:
            device = self._placement.device
        else:
            device = device_for(HOST if cpu else self.device)
        # Its generator must exist before a fit records the state that it restores at the end.
        start(device)
        # Processes of a launcher have their devices from it.
        alone = int(os.environ.get("WORLD_SIZE", "1")) < 2
        with current(device) if alone else nullcontext():
            yield

    def _check_shardable(self) -> None:
        """Raise an error if the net is sharded and the loss has trainable parameters.

        Raises:
            ValueError: An optimizer cannot mix parameters of the loss with those of a sharded net.
        """
        if self._loss_learns:
            message = (
                f"{self.objective.name} has trainable parameters, which the optimizer of a sharded "
                "net cannot train; move them into the net, or pass fsdp=False"
            )
            raise ValueError(message)

    @property
    def _loss_learns(self) -> bool:
        parameters = self.objective.named_parameters(self.net)
        return any(parameter.requires_grad for _, parameter in parameters)

    @property
    def objectives(self) -> list[Objective]:
        """The objective of training and, if validation has its own, that of validation."""
        own = self.val_objective is not self.objective
        return [self.objective, self.val_objective] if own else [self.objective]

    @property
    def updates(self) -> int:
        """The completed optimizer updates over all fits, including the current one."""
        return self.progress.updates if self.run is None else self.run.state.update.completed

    def reached(self) -> str:
        """Return the current epoch and the number of updates as text, for messages."""
        return f"epoch {self.progress.epochs + 1}, with {self.updates} updates completed"

    @property
    def within_update(self) -> bool:
        """Whether the current fit is between two batches of one update."""
        return self.run is not None and not self.run.step.at_boundary

    def measurement_spec(self) -> MeasurementSpec:
        """Return what the steps of a fit, an evaluation or a prediction measure."""
        parts = self.net, self.objective, self.metrics_dict, self.placement, self.forward_hook
        return MeasurementSpec(*parts, self._runner_kit(), step_functions(self))

    def validation_spec(self) -> MeasurementSpec:
        """Return what validation and evaluation measure."""
        return replace(self.measurement_spec(), objective=self.val_objective)

    def figure_names(self, sets: Sequence[str], *, train_metrics: bool = True) -> list[str]:
        """Return the names of all values that a fit measures.

        Args:
            sets: The prefix of the values of each validation set, as "val_".
            train_metrics: Whether metrics are measured in training.
        """
        metrics = [name for name, _, _ in flat(self.metrics_dict)]
        trained = ["loss", *(metrics if train_metrics else []), *self.objective.names]
        measured = ("loss", *metrics, *self.val_objective.names)
        validated = [f"{prefix}{name}" for prefix in sets for name in measured]
        names = [f"train_{name}" for name in trained]
        rates = ["lr"] if self.optimizer is None else learning_rates(self.optimizer)
        return check_distinct([*names, *rates, *self.objective.weights, *validated])

    def _runner_kit(self) -> RunnerKit | None:
        """Return what creates the user's step runners, None if `StepRunner` is not set.

        Raises:
            ValueError: `EpochRunner` is set without `StepRunner`, or `forward=` is passed as well.
            TypeError: The class does not take the expected arguments.
        """
        if self.EpochRunner is not None and self.StepRunner is None:
            message = (
                "EpochRunner is set without the StepRunner that it calls with each batch; set "
                "both, or move the code around the batches into callbacks"
            )
            raise ValueError(message)
        if self.StepRunner is None:
            return None
        if self.forward_hook is not None:
            message = "forward= and StepRunner both process a batch; use one of them"
            raise ValueError(message)
        if self.val_objective is not self.objective:
            message = "a StepRunner computes the loss of validation itself; remove val_loss_fn"
            raise ValueError(message)
        kit = RunnerKit(self.StepRunner, self._runner_loss(), self.kwargs, self.EpochRunner)
        kit.check()
        return kit

    def _runner_loss(self) -> Callable[..., Any] | None:
        """Return what a runner calls as `loss_fn(preds, labels)`; None if there is no loss."""
        loss_fn = self.loss_fn
        if loss_fn is None or (callable(loss_fn) and not isinstance(loss_fn, Composition)):
            return loss_fn
        return partial(self.objective.module, net=self.net)
