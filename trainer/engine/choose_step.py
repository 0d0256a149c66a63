"""Choose the step of a fit: plain, accumulating, compiled, distributed, or the user's runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fitorch.data.sources import Source
from fitorch.deepspeed.sync import ZeroSync
from fitorch.deepspeed.update import ZeroUpdate
from fitorch.distributed.sync_batchnorm import SyncedNorms
from fitorch.engine.custom_step.evaluation import CustomEvaluationStep
from fitorch.engine.custom_step.training import CustomStep
from fitorch.engine.step_runner.epoch_training import EpochTrainingStep
from fitorch.engine.step_runner.evaluation import RunnerEvaluationStep
from fitorch.engine.step_runner.training import RunnerTrainingStep
from fitorch.engine.steps.accumulation import AccumulatingStep
from fitorch.engine.steps.closure import ClosureStep
from fitorch.engine.steps.compiled import CompiledStep
from fitorch.engine.steps.distributed import DistributedStep
from fitorch.engine.steps.evaluation import EvaluationStep
from fitorch.engine.steps.measurement import Measurement, MeasurementSpec
from fitorch.engine.steps.stage_values import StageValues
from fitorch.engine.steps.sync.ddp import DDPSync
from fitorch.engine.steps.sync.fsdp import FSDPSync
from fitorch.engine.steps.sync.gradient_sync import GradientSync
from fitorch.engine.steps.training import TrainingStep
from fitorch.engine.steps.training_measurement import TrainingMeasurement
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.losses.terms import TermValue
from fitorch.nets.precision import floating_dtype
from fitorch.optim.closure_update import ClosureUpdate
from fitorch.optim.several import name_of
from fitorch.optim.update import Update

from .arguments import FitArguments
from .class_weights import ClassWeights
from .coordinator import Coordinator

if TYPE_CHECKING:
    from .base_model import BaseModel


def choose_training_step(
    model: BaseModel,
    spec: MeasurementSpec,
    source: Source,
    update: Update,
    arguments: FitArguments,
    coordinator: Coordinator,
) -> UpdatingStep[StageValues]:
    """Return the step that trains with the arguments of a fit."""
    if not arguments.train_metrics:
        # With train_metrics=False, only the loss is measured in training.
        spec = replace(spec, metrics={})
    if spec.steps is not None:
        return CustomStep(spec, source, update, model, arguments, coordinator)
    if spec.runner is not None:
        chosen = RunnerTrainingStep if spec.runner.epoch_runner is None else EpochTrainingStep
        return chosen(spec, source, update, model, arguments)
    return _choose_own_step(model, spec, source, update, arguments, coordinator)


def _choose_own_step(
    model: BaseModel,
    spec: MeasurementSpec,
    source: Source,
    update: Update,
    arguments: FitArguments,
    coordinator: Coordinator,
) -> UpdatingStep[StageValues]:
    """Return the step of fitorch that measures the objective and updates the weights."""
    class_weights = _class_weights(model, arguments)
    # This test comes before accumulation: a distributed step accumulates by itself, with the counts
    # of all processes.
    if coordinator.processes.is_distributed:
        _refuse_compilation(model, f"{coordinator.processes.world_size} processes")
        measurement = TrainingMeasurement(
            spec,
            source,
            class_weights,
            # Decisions are made with the collective that gathers the values of an epoch.
            gather=lambda part: coordinator.synchronize(part=part),
            guards_batch_norm=not arguments.sync_batchnorm,
        )
        return DistributedStep(
            measurement,
            update,
            model,
            sync=_choose_sync(model, measurement, update, arguments),
            coordinator=coordinator,
            window=arguments.gradient_accumulation_steps,
        )
    measurement = TrainingMeasurement(spec, source, class_weights)
    window = arguments.gradient_accumulation_steps
    if isinstance(update, ClosureUpdate):
        _refuse_compilation(model, f"{name_of(update.optimizer)} evaluates a closure")
        return ClosureStep(measurement, update, model, window=window)
    if window > 1:
        _refuse_compilation(model, f"gradient_accumulation_steps={window}")
        return AccumulatingStep(measurement, update, model, window=window)
    if model.compilation is None:
        return TrainingStep(measurement, update, model)
    # Compiled code treats Python numbers as constants: each epoch would compile again.
    model.objective.keep_weights_in_tensors()
    return CompiledStep(measurement, update, model, compilation=model.compilation)


def choose_evaluation_step(
    spec: MeasurementSpec, source: Source, prefix: str, stopped: Callable[[], bool]
) -> EvaluationStep | RunnerEvaluationStep | CustomEvaluationStep:
    """Return the step that measures the batches of a pass, with the user's runner if there is one.

    Args:
        spec: What to measure.
        source: Where the batches come from.
        prefix: The prefix of the names of the values, as "val_".
        stopped: Returns whether the stage should end early.
    """
    if spec.runner is not None:
        return RunnerEvaluationStep(spec, source, prefix, stopped)
    if spec.steps is not None:
        return CustomEvaluationStep(spec, source, prefix, stopped)
    return EvaluationStep(Measurement(spec, source, prefix), stopped)


def _choose_sync(
    model: BaseModel, measurement: TrainingMeasurement, update: Update, arguments: FitArguments
) -> GradientSync:
    """Return how gradients are synchronized: by FSDP2, by DeepSpeed, or by DDP."""
    measure = _measure_of(measurement, sync_batchnorm=arguments.sync_batchnorm)
    if model.placement.sharding is not None:
        return FSDPSync(measurement, measure, update)
    if isinstance(update, ZeroUpdate):
        count = measurement.processes.world_size
        return ZeroSync(measurement.objective, measure, update, count)
    return DDPSync(measurement, measure, update, find_unused=arguments.find_unused_parameters)


def _measure_of(
    measurement: TrainingMeasurement, *, sync_batchnorm: bool
) -> Callable[[Any], list[TermValue]]:
    """Return what measures a batch, perhaps with batch norms over all processes."""
    norms = SyncedNorms(measurement.net) if sync_batchnorm else None

    def measure(batch: Any) -> list[TermValue]:
        if norms is None:
            return measurement.measure(batch)  # looked up here: the first batch replaces it
        norms.counts = measurement.counts
        with norms.applied():
            return measurement.measure(batch)

    return measure


def _class_weights(model: BaseModel, arguments: FitArguments) -> ClassWeights | None:
    if arguments.class_weight is None:
        return None
    floating = floating_dtype(model.net.parameters())
    kind = model.objective.prediction_kind()
    return ClassWeights(arguments.class_weight, model.placement.device, floating, kind)


def _refuse_compilation(model: BaseModel, reason: str) -> None:
    if model.compilation is not None:
        model.compilation.refuse(reason)
