"""What a model is made of: net, objective, metrics, optimizer, placement, progress."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from fitorch.distributed.fsdp import follow
from fitorch.distributed.processes import Processes
from fitorch.engine.step_runner.kit import RunnerKit
from fitorch.engine.steps.compiled import Compilation
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.history.history import History
from fitorch.losses.compose import Composition
from fitorch.losses.objective import Objective
from fitorch.metrics.base import flat
from fitorch.metrics.registry import check_names
from fitorch.optim.optimizers import OptimizerLike, make_optimizer, make_scheduler

from .checks import check_distinct, check_metrics_dict, check_optimizer
from .placement import Placement
from .state import Progress

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator


class BaseModel(ABC):
    """What training, evaluation and prediction work on; `KerasModel` adds what users call.

    Args:
        net: What `KerasModel` takes; likewise the others.
        extra: Other keyword arguments, for a `StepRunner`.
        **placing: `channels_last`, `fsdp` and `deepspeed`.

    Attributes:
        run: The fit that is under way, or None.
        progress: How far training has come, over all fits.
        run_id: What its checkpoints are known by.
    """

    StepRunner: ClassVar[Any] = None
    EpochRunner: ClassVar[Any] = None

    def __init__(
        self,
        net: nn.Module,
        loss_fn: Any,
        metrics_dict: Mapping[str, Any] | None,
        optimizer: OptimizerLike,
        lr_scheduler: Any,
        *,
        forward: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        jit_compile: bool = False,
        extra: Mapping[str, Any],
        **placing: Any,
    ) -> None:
        self.metrics_dict = check_metrics_dict(metrics_dict)
        check_names((name, metric) for name, _, metric in flat(self.metrics_dict))
        self.net, self.loss_fn, self.forward_hook, self.kwargs = net, loss_fn, forward, extra
        self.objective = Objective(loss_fn, [name for name, _, _ in flat(self.metrics_dict)])
        self.channels_last: bool = placing["channels_last"]
        self.fsdp, self.deepspeed = placing["fsdp"], placing["deepspeed"]
        self._placement: Placement | None = None
        self.history = History()
        self.progress = Progress()
        self.run_id = uuid.uuid4().hex
        self.run: Any = None
        loss_parameters = dict(self.objective.named_parameters(net))
        self.optimizer = make_optimizer(optimizer, net, loss_parameters.values())
        self.lr_scheduler = None
        if self.optimizer is not None:  # there is something to train
            check_optimizer(self.optimizer, net, loss_parameters)
            self.lr_scheduler = make_scheduler(lr_scheduler, self.optimizer)
        self.compilation = Compilation() if jit_compile else None
        self.ckpt_path: str | Path | None = None
        self.metric_tasks: dict[str, str] = {}
        self.stop_training = self.stop_evaluating = self.stop_predicting = False

    @abstractmethod
    def fit(self, train_data: Any, val_data: Any = None, **options: Any) -> pd.DataFrame:
        """Train the net; see `KerasModel.fit`."""

    @abstractmethod
    def evaluate(self, val_data: Any, **options: Any) -> dict[str, float]:
        """Measure loss and metrics; see `KerasModel.evaluate`."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes the model, without what belongs to this process."""
        return {**vars(self), "_placement": None, "run": None}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give the net's parameters."""
        return self.net.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the net's parameters with their names."""
        return self.net.named_parameters()

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes and prints; the only one is."""
        return Processes().is_main

    @property
    def accelerator(self) -> Accelerator:
        """Accelerate's object that placed the net."""
        return self.placement.accelerator

    @property
    def placement(self) -> Placement:
        """Where the net lies; the first use moves it to what accelerate finds best."""
        return self.place() if self._placement is None else self._placement

    def place(self, mixed_precision: str | None = None, cpu: bool = False) -> Placement:
        """Move net and loss to a device, and choose a precision.

        Args:
            mixed_precision: "no", "fp16" or "bf16"; None as accelerate is configured.
            cpu: Stay on the CPU whatever there is.
        """
        self._placement = Placement(
            mixed_precision,
            cpu,
            channels_last=self.channels_last,
            fsdp=self.fsdp,
            deepspeed=self.deepspeed,
        )
        if self._placement.sharding is not None:
            self._check_shardable()
        follow(self.optimizer, self._placement.place(self.net))
        self.objective.to(self._placement.device)
        return self._placement

    def _check_shardable(self) -> None:
        """Refuse a loss with parameters where the net is spread.

        Raises:
            ValueError: It has some; an optimizer can't mix them with those of a sharded net.
        """
        if self._loss_learns:
            message = (
                f"{self.objective.name} has parameters of its own, which a sharded net's optimizer "
                "can't train beside it; move them into the net, or pass fsdp=False"
            )
            raise ValueError(message)

    @property
    def _loss_learns(self) -> bool:
        parameters = self.objective.named_parameters(self.net)
        return any(parameter.requires_grad for _, parameter in parameters)

    @property
    def updates(self) -> int:
        """How many updates the optimizer made, over all fits and in the one under way."""
        return self.progress.updates if self.run is None else self.run.state.update.completed

    def reached(self) -> str:
        """Return how far training has come, in words."""
        return f"epoch {self.progress.epochs + 1}, with {self.updates} updates completed"

    @property
    def within_update(self) -> bool:
        """Whether a fit is under way and stands between the batches of one update."""
        return self.run is not None and not self.run.step.at_boundary

    def measurement_spec(self) -> MeasurementSpec:
        """Return what steps measure."""
        kit = self._runner_kit()
        parts = self.net, self.objective, self.metrics_dict, self.placement, self.forward_hook, kit
        return MeasurementSpec(*parts)

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

    def _runner_kit(self) -> RunnerKit | None:
        """Return what step runners are made of, None where there is no class for them.

        Raises:
            ValueError: There is an `EpochRunner` alone, or a `forward=` too.
            TypeError: The class takes other arguments.
        """
        if self.EpochRunner is not None and self.StepRunner is None:
            message = (
                "EpochRunner is set, but no StepRunner, which it calls with each batch; set both, "
                "or put what it does around the batches into callbacks"
            )
            raise ValueError(message)
        if self.StepRunner is None:
            return None
        if self.forward_hook is not None:
            message = "forward= and StepRunner both say what to do with a batch; keep one of them"
            raise ValueError(message)
        kit = RunnerKit(self.StepRunner, self._comparing(), self.kwargs, self.EpochRunner)
        kit.check()
        return kit

    def _comparing(self) -> Any:
        """Return what a runner calls as `loss_fn(preds, labels)`; None where there is none."""
        loss_fn = self.loss_fn
        if loss_fn is None or (callable(loss_fn) and not isinstance(loss_fn, Composition)):
            return loss_fn
        return partial(self.objective.module, net=self.net)
