"""What a user's own `StepRunner` is made of: torchkeras' extension point.

`KerasModel.StepRunner = StepRunner`, a class `StepRunner(net, loss_fn, accelerator, stage,
metrics_dict, optimizer, lr_scheduler, **kwargs)`. One is made for each epoch of a stage; called
with a batch it does all of a step and returns `(step_losses, step_metrics)`: floats by name, each
name beginning with the stage, as `train_loss`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fitorch.engine.steps.measurement import MeasurementSpec

_FORM = (
    "StepRunner(net, loss_fn, accelerator=None, stage='train', metrics_dict=None, optimizer=None, "
    "lr_scheduler=None, **kwargs)"
)

_EPOCH_FORM = "EpochRunner(step_runner, quiet=False)"


@dataclass(frozen=True, slots=True)
class RunnerKit:
    """What step runners are made of, whatever their stage.

    Args:
        kind: The user's class.
        loss_fn: What compares predictions and targets, or None.
        extra: Other keyword arguments of `KerasModel`, for the runner.
        epoch_kind: The user's class that goes over an epoch, or None.
    """

    kind: Callable[..., Any]
    loss_fn: Any
    extra: Mapping[str, Any]
    epoch_kind: Callable[..., Any] | None = None

    def make(
        self,
        spec: MeasurementSpec,
        stage: str,
        metrics: Mapping[str, Any],
        optimizer: Any = None,
        lr_scheduler: Any = None,
    ) -> Callable[[Any], Any]:
        """Return the step runner of a stage."""
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
        runner: Callable[[Any], Any] = self.kind(**arguments)
        return runner

    def over(self, runner: Any) -> Callable[[Any], Any]:
        """Return what goes over the batches of an epoch with a step runner."""
        assert self.epoch_kind is not None
        going: Callable[[Any], Any] = self.epoch_kind(runner, quiet=True)
        return going

    def check(self) -> None:
        """Refuse a class that can't be called with what it will get.

        Raises:
            TypeError: It says what is wrong with its arguments.
        """
        names = ("net", "loss_fn", "accelerator", "stage", "metrics_dict")
        given = dict.fromkeys((*names, "optimizer", "lr_scheduler", *self.extra))
        _check_call(self.kind, _FORM, (), given)
        if self.epoch_kind is not None:
            _check_call(self.epoch_kind, _EPOCH_FORM, (None,), {"quiet": True})


def _check_call(
    kind: Callable[..., Any], form: str, args: tuple[Any, ...], given: Mapping[str, Any]
) -> None:
    try:
        inspect.signature(kind).bind(*args, **given)
    except TypeError as error:
        message = f"{called(kind)} can't be made: {error}; expected {form}"
        raise TypeError(message) from error


def called(kind: Any) -> str:
    """Return what to call a class of the user's in a message."""
    return getattr(kind, "__name__", "StepRunner")
