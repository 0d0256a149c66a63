"""Create the user's step runners, torchkeras' extension point.

`KerasModel.StepRunner` is a class `StepRunner(net, loss_fn, accelerator, stage, metrics_dict,
optimizer, lr_scheduler, **kwargs)`. A new instance is created for each epoch of a stage. Called
with a batch, it runs the whole step and returns `(step_losses, step_metrics)`: floats by name, each
name beginning with the stage, as `train_loss`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from fitorch.engine.steps.measurement import MeasurementSpec

_STEP_SIGNATURE = (
    "StepRunner(net, loss_fn, accelerator=None, stage='train', metrics_dict=None, optimizer=None, "
    "lr_scheduler=None, **kwargs)"
)

_EPOCH_SIGNATURE = "EpochRunner(step_runner, quiet=False)"


@dataclass(frozen=True, slots=True)
class RunnerKit:
    """The user's runner classes, and the arguments that all stages share.

    Args:
        step_runner: The user's `StepRunner` class.
        loss_fn: Compares predictions and targets, or None.
        extra: Other keyword arguments of `KerasModel`, for the runner.
        epoch_runner: The user's `EpochRunner` class, or None.
    """

    step_runner: Callable[..., Any]
    loss_fn: Callable[..., Any] | None
    extra: Mapping[str, Any]
    epoch_runner: Callable[..., Any] | None = None

    def make(
        self,
        spec: MeasurementSpec,
        stage: str,
        metrics: Mapping[str, Any],
        optimizer: Optimizer | None = None,
        lr_scheduler: Any = None,
    ) -> Callable[[Any], Any]:
        """Return a new step runner for a stage."""
        arguments = {
            "net": spec.net,
            "loss_fn": self.loss_fn,
            "accelerator": spec.placement.accelerator,
            "stage": stage,
            "metrics_dict": metrics,
            "optimizer": optimizer,
            "lr_scheduler": lr_scheduler,
            **self.extra,
        }
        runner: Callable[[Any], Any] = self.step_runner(**arguments)
        return runner

    def make_epoch_runner(self, step_runner: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a new epoch runner that calls a step runner with each batch."""
        assert self.epoch_runner is not None
        runner: Callable[[Any], Any] = self.epoch_runner(step_runner, quiet=True)
        return runner

    def check(self) -> None:
        """Check the signatures of the user's classes.

        Raises:
            TypeError: A class does not take the arguments that it will be called with.
        """
        names = ("net", "loss_fn", "accelerator", "stage", "metrics_dict")
        arguments = dict.fromkeys((*names, "optimizer", "lr_scheduler", *self.extra))
        _check_runner_signature(self.step_runner, _STEP_SIGNATURE, (), arguments)
        if self.epoch_runner is not None:
            _check_runner_signature(self.epoch_runner, _EPOCH_SIGNATURE, (None,), {"quiet": True})


def _check_runner_signature(
    runner_class: Callable[..., Any],
    expected: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    try:
        inspect.signature(runner_class).bind(*args, **kwargs)
    except TypeError as error:
        message = f"{class_name(runner_class)} cannot be created: {error}; expected {expected}"
        raise TypeError(message) from error


def class_name(runner_class: object) -> str:
    """Return the name of a class of the user, for messages."""
    return getattr(runner_class, "__name__", "StepRunner")
