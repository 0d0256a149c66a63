"""Steps that a user's own `StepRunner` takes; see runner.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from torch import nn, optim

from fitorch.data.sources import Source
from fitorch.engine.arguments import FitArguments
from fitorch.engine.steps.evaluation import EvaluationStep, Measures
from fitorch.engine.steps.training import TrainingStep
from fitorch.errors import NonFiniteError
from fitorch.optim.update import Update
from fitorch.tree import sample_count

from .kit import RunnerKit, called
from .log import StageLog

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


class _Logged:
    """A step whose figures are those of a log."""

    log: StageLog

    def figures(self) -> dict[str, float]:
        """Return the figures so far."""
        return self.log.figures()

    def reset(self) -> None:
        """Begin an epoch."""
        self.log.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted in the epoch so far."""
        return self.log.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.log.load_state_dict(state)


class RunnerEvaluationStep(_Logged, EvaluationStep):
    """What the user's step runner makes of a batch of validation data."""

    def __init__(self, measures: Measures, *args: Any) -> None:
        super().__init__(replace(measures, metrics={}), *args)
        _refuse_several(measures)
        stage, metrics = self._prefix.removesuffix("_"), _copies(measures)
        self.log = StageLog(stage, metrics)
        kit = _placed(measures)
        self._make = partial(kit.make, measures, stage, metrics)
        self._runner: Callable[[Any], Any] | None = None

    def __call__(self, batch: Any) -> None:
        """Measure a batch."""
        if self._runner is None:  # made here: it may change modes, which are put back after a pass
            self._runner = self._make()
        self.log.add(self._runner(batch), _samples_in(batch))

    def reset(self) -> None:
        """Begin a pass."""
        super().reset()
        self._runner = None


class RunnerTrainingStep(_Logged, TrainingStep):
    """What the user's step runner makes of a batch: forward, backward, update and schedule.

    Args:
        measures: What to measure; its metrics are given to the runner.
        source: Where the batches come from.
        update: Holds optimizer and schedule; the runner calls them itself.
        model: Its `stop_training` ends the epoch early.
        arguments: What was asked for.

    Raises:
        ValueError: An argument of fit asks for what only fit's own step does.
    """

    _runner: Callable[[Any], Any]  # of the epoch

    def __init__(
        self,
        measures: Measures,
        source: Source,
        update: Update,
        model: BaseModel,
        arguments: FitArguments,
    ) -> None:
        super().__init__(replace(measures, metrics={}), source, update, None, model)
        _refuse_several(measures)
        check_arguments(model, source, arguments)
        update.scheduler_step = "update"  # the runner steps it: nobody does after an epoch
        accelerator = measures.placement.accelerator
        self._window = arguments.gradient_accumulation_steps
        accelerator.gradient_accumulation_steps = self._window
        self._accelerator = accelerator
        self._steps = arguments.steps_per_epoch or source.steps
        self._open = 0  # batches since the last update
        self._taken = 0  # batches of the epoch
        metrics = _copies(measures)
        self.log = StageLog("train", metrics)
        kit = _placed(measures, accelerator)
        optimizer, scheduler = accelerator.prepare_optimizer(update.optimizer), update.scheduler
        if scheduler is not None:
            scheduler = accelerator.prepare_scheduler(scheduler)
        self._make = partial(kit.make, measures, "train", metrics, optimizer, scheduler)

    def __call__(self, batch: Any) -> None:
        """Train on a batch; the accelerator lets the optimizer update at the end of a window."""
        self._open, self._taken = self._open + 1, self._taken + 1
        closes = self._open == self._window or self._taken == self._steps
        self._accelerator.sync_gradients = closes
        try:
            returned = self._runner(batch)
        finally:
            self._accelerator.sync_gradients = True
        self.log.add(returned, _samples_in(batch))
        if closes:
            self._open = 0
            self.update.completed += 1

    def begin_epoch(self) -> None:
        """Make the runner of the epoch."""
        self.update.zero_grad()
        self._runner = self._make()

    def figures(self) -> dict[str, float]:
        """Return the figures so far.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        values = super().figures()
        loss = values.get("train_loss", 0.0)
        if not isfinite(loss):
            message = f"the training loss (of {called(self.model.StepRunner)}) is {loss}"
            raise NonFiniteError(message)
        return values

    def reset(self) -> None:
        """Begin an epoch."""
        super().reset()
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted in the epoch so far."""
        return {**super().state_dict(), "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        super().load_state_dict(state)
        self._taken = state["taken"]


def check_arguments(model: BaseModel, source: Source, arguments: FitArguments) -> None:
    """Refuse what only fit's own step does.

    Raises:
        ValueError: It says what to do instead.
    """
    schedule = "let it call self.lr_scheduler.step(), which it alone does"
    scaled_by_us = model.placement.scaler is not None and model.accelerator.scaler is None
    loose = arguments.gradient_accumulation_steps > 1 and not (
        arguments.steps_per_epoch or source.steps
    )
    wishes: dict[str, tuple[bool, str]] = {
        "class_weight": (arguments.class_weight is not None, "weigh the loss in it"),
        "clip_grad_norm": (
            arguments.clip_grad_norm is not None,
            "call self.accelerator.clip_grad_norm_(self.net.parameters(), 1.0) in it",
        ),
        "clip_grad_value": (
            arguments.clip_grad_value is not None,
            "call self.accelerator.clip_grad_value_(self.net.parameters(), 1.0) in it",
        ),
        "scheduler_step": (arguments.scheduler_step != "auto", schedule),
        "jit_compile": (model.compilation is not None, "call torch.compile in it"),
        "mixed_precision='fp16' on a CPU": (scaled_by_us, "use 'bf16'"),
        "gradient_accumulation_steps": (loose, "pass data with a length, or steps_per_epoch"),
        "a loss with weights that change by the epoch": (
            bool(model.objective.weights),
            "compute them in it",
        ),
    }
    for wish, (wanted, instead) in wishes.items():
        if wanted:
            message = f"{wish} can't go with {called(model.StepRunner)}, a StepRunner: {instead}"
            raise ValueError(message)


def _refuse_several(measures: Measures) -> None:
    if measures.placement.processes.several:
        message = (
            "a StepRunner works in one process, but "
            f"{measures.placement.processes.count} were launched; pass forward= instead"
        )
        raise ValueError(message)


def _placed(measures: Measures, accelerator: Any = None) -> RunnerKit:
    """Return the kit with what it holds beside the net on the device, and prepared to train."""
    kit: RunnerKit = measures.runner
    device = measures.placement.device

    def placed(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return value.to(device)
        if accelerator is not None and isinstance(value, optim.Optimizer):
            return accelerator.prepare_optimizer(value)
        return value

    return replace(kit, extra={name: placed(value) for name, value in kit.extra.items()})


def _copies(measures: Measures) -> dict[str, Any]:
    """Return metrics with states of their own, on the device.

    Raises:
        TypeError: One is a name, or of one of several outputs.
    """
    found = {}
    for name, metric in measures.metrics.items():
        if isinstance(metric, (str, Mapping)):
            message = (
                f"metrics_dict[{name!r}] is {metric!r}, but a StepRunner calls its metrics itself; "
                "pass an object, as torchmetrics.Accuracy(task='binary'), or a function"
            )
            raise TypeError(message)
        own = copy.deepcopy(metric)
        found[name] = own.to(measures.placement.device) if isinstance(own, nn.Module) else own
    return found


def _samples_in(batch: Any) -> int:
    """Return how many samples a batch has, 1 where it does not tell: batches then count alike."""
    try:
        return sample_count(batch) or 1
    except ValueError:
        return 1
