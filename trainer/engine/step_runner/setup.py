"""Set up a step with the user's `StepRunner`: checks, metrics, and arguments on the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn, optim

from fitorch.data.sources import Source
from fitorch.engine.arguments import FitArguments
from fitorch.engine.steps.measurement import MeasurementSpec

from .kit import RunnerKit, class_name

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fitorch.engine.base_model import BaseModel


def check_one_process(spec: MeasurementSpec) -> None:
    """Raise an error if several processes train together, which a step runner does not support.

    Raises:
        ValueError: There are several processes.
    """
    if spec.placement.processes.is_distributed:
        message = (
            "a StepRunner works only in one process, but "
            f"{spec.placement.processes.world_size} were launched; pass forward= instead"
        )
        raise ValueError(message)


def check_arguments(model: BaseModel, source: Source, arguments: FitArguments) -> None:
    """Raise an error if an argument of the fit has no effect on a step runner.

    Raises:
        ValueError: There is such an argument; the message contains the alternative.
    """
    # accelerate does not make a scaler for CPUs; fit makes one, which a runner does not use.
    scaled_by_fit = model.placement.scaler is not None and model.accelerator.scaler is None
    unknown_length = arguments.gradient_accumulation_steps > 1 and not (
        arguments.steps_per_epoch or source.steps
    )
    requests: dict[str, tuple[bool, str]] = {
        "class_weight": (arguments.class_weight is not None, "weight the loss in it"),
        "clip_grad_norm": (
            arguments.clip_grad_norm is not None,
            "call self.accelerator.clip_grad_norm_(self.net.parameters(), 1.0) in it",
        ),
        "clip_grad_value": (
            arguments.clip_grad_value is not None,
            "call self.accelerator.clip_grad_value_(self.net.parameters(), 1.0) in it",
        ),
        "scheduler_step": (
            arguments.scheduler_step != "auto",
            "call self.lr_scheduler.step() in it",
        ),
        "jit_compile": (model.compilation is not None, "call torch.compile in it"),
        "mixed_precision='fp16' on a CPU": (scaled_by_fit, "use 'bf16'"),
        "gradient_accumulation_steps": (
            unknown_length,
            "pass data with a length, or steps_per_epoch",
        ),
        "a loss with weights that change by the epoch": (
            bool(model.objective.weights),
            "compute them in it",
        ),
    }
    for request, (requested, alternative) in requests.items():
        if requested:
            message = (
                f"{request} does not work with {class_name(model.StepRunner)}, a StepRunner; "
                f"{alternative}"
            )
            raise ValueError(message)


def placed_kit(spec: MeasurementSpec, accelerator: Accelerator | None = None) -> RunnerKit:
    """Return the kit with its extra arguments on the device.

    Args:
        spec: The kit and the device.
        accelerator: In training, prepares the optimizers among the arguments; else None.
    """
    kit = spec.runner
    assert kit is not None
    device = spec.placement.device

    def placed(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return value.to(device)
        if accelerator is not None and isinstance(value, optim.Optimizer):
            # Prepared optimizers skip their step within a window of accumulated batches.
            return accelerator.prepare_optimizer(value)
        return value

    return replace(kit, extra={name: placed(value) for name, value in kit.extra.items()})


def metric_copies(spec: MeasurementSpec) -> dict[str, Any]:
    """Return copies of the metrics for a stage, on the device.

    Raises:
        TypeError: A metric is a name, or a mapping of the metrics of one output.
    """
    copies = {}
    for name, metric in spec.metrics.items():
        if isinstance(metric, (str, Mapping)):
            message = (
                f"metrics_dict[{name!r}] is {metric!r}, but a StepRunner calls its metrics itself; "
                "pass an object, as torchmetrics.Accuracy(task='binary'), or a function"
            )
            raise TypeError(message)
        # Training and validation run in turns, so each stage needs a state of its own.
        copied = copy.deepcopy(metric)
        is_module = isinstance(copied, nn.Module)
        copies[name] = copied.to(spec.placement.device) if is_module else copied
    return copies
