"""Which step a fit takes: plain, accumulating, compiled, or one of several processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fitorch.data.sources import Source
from fitorch.engine.step_runner.steps import RunnerEvaluationStep, RunnerTrainingStep
from fitorch.engine.steps.accumulation import AccumulatingStep
from fitorch.engine.steps.compiled import CompiledStep
from fitorch.engine.steps.ddp import ReplicaStep
from fitorch.engine.steps.evaluation import EvaluationStep, Measures
from fitorch.engine.steps.fsdp import ShardedStep
from fitorch.engine.steps.training import TrainingStep
from fitorch.engine.steps.zero import ZeroStep
from fitorch.nets.precision import floating_dtype
from fitorch.optim.update import Update

from .arguments import FitArguments
from .class_weights import ClassWeights
from .coordinator import Accord

if TYPE_CHECKING:
    from .base_model import BaseModel


def _class_weights(model: BaseModel, arguments: FitArguments) -> ClassWeights | None:
    if arguments.class_weight is None:
        return None
    floating = floating_dtype(model.net.parameters())
    return ClassWeights(arguments.class_weight, model.placement.device, floating)


def choose_training_step(
    model: BaseModel,
    measures: Measures,
    source: Source,
    update: Update,
    arguments: FitArguments,
    accord: Accord,
) -> TrainingStep:
    """Return the step that trains with the arguments of a fit."""
    class_weights = _class_weights(model, arguments)
    if not arguments.train_metrics:
        measures = replace(measures, metrics={})
    if measures.runner is not None:
        return training_step(measures, source, update, model, arguments)
    compilation = model.compilation
    if accord.processes.several:
        if compilation is not None:
            compilation.refuse(f"{accord.processes.count} processes")
        common = (measures, source, update, class_weights, model)
        return _joint_step(arguments, accord, *common)
    if arguments.gradient_accumulation_steps > 1:
        if compilation is not None:
            compilation.refuse(
                f"gradient_accumulation_steps={arguments.gradient_accumulation_steps}"
            )
        window = arguments.gradient_accumulation_steps
        return AccumulatingStep(measures, source, update, class_weights, model, window=window)
    if compilation is None:
        return TrainingStep(measures, source, update, class_weights, model)
    step = CompiledStep(measures, source, update, class_weights, model)
    step.compilation = compilation
    model.objective.compilable()
    return step


def _joint_step(arguments: FitArguments, accord: Accord, *common: Any) -> TrainingStep:
    """Return the step of one of several processes."""
    options: dict[str, Any] = {
        "accord": accord,
        "window": arguments.gradient_accumulation_steps,
        "sync_norms": arguments.sync_batchnorm,
    }
    if accord.model.placement.sharding is not None:
        return ShardedStep(*common, **options)
    if accord.model.placement.zero is not None:
        return ZeroStep(*common, **options)
    return ReplicaStep(*common, **options, find_unused=arguments.find_unused_parameters)


def evaluation_step(
    measures: Measures, source: Source, prefix: str, stopped: Callable[[], bool]
) -> EvaluationStep:
    """Return what measures the batches of a pass: the user's runner where there is one."""
    if measures.runner is None:
        return EvaluationStep(measures, source, prefix, stopped)
    if measures.runner.epoch_kind is None:
        return RunnerEvaluationStep(measures, source, prefix, stopped)
    from fitorch.engine.step_runner.epochs import EpochEvaluationStep

    return EpochEvaluationStep(measures, source, prefix, stopped)


def training_step(measures: Measures, *args: Any) -> TrainingStep:
    """Return what trains with the user's runner; see `RunnerTrainingStep`."""
    assert measures.runner is not None
    if measures.runner.epoch_kind is None:
        return RunnerTrainingStep(measures, *args)
    from fitorch.engine.step_runner.epochs import EpochTrainingStep

    return EpochTrainingStep(measures, *args)
