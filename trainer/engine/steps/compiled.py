"""Training with whole steps compiled by torch, if it can compile them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from .compiled_optimizer import CannotCompileError, compiled_constants
from .compiled_region import CompiledRegion
from .training import TrainingStep
from .training_measurement import TrainingMeasurement
from .updating import UpdatingStep

_CHECKED_STEPS = 32  # steps after which the fraction of compiled ones is checked
_LEAST_COMPILED = 0.5  # the fraction of steps that should run compiled


@dataclass(slots=True)
class Compilation:
    """The compiled step of a model, kept from fit to fit.

    Attributes:
        region: The compiled step, None if there is none yet.
        settings: The settings that it was compiled for.
        seconds: The time that compiling took.
        refused: Whether torch cannot compile the step.
    """

    region: CompiledRegion | None = None
    settings: tuple[Any, ...] | None = None
    seconds: float = 0.0
    refused: bool = False

    def refuse(self, reason: object) -> None:
        """Run uncompiled from now on, and warn once."""
        if not self.refused:
            warnings.warn(
                f"jit_compile: the training step cannot be compiled and runs uncompiled: {reason}",
                stacklevel=2,
            )
        self.region, self.refused = None, True


class CompiledStep(UpdatingStep[TrainingMeasurement]):
    """Trains on batches by one compiled region.

    The first batch runs uncompiled, which checks everything and creates gradients and optimizer
    state. Batches of other shapes, such as the shorter last one of an epoch, run uncompiled too.

    Args:
        *args: As for `UpdatingStep`.
        compilation: The compiled step of earlier fits of the model.
    """

    def __init__(self, *args: Any, compilation: Compilation) -> None:
        super().__init__(*args)
        self._uncompiled = TrainingStep(*args)
        self._compilation = compilation
        self._steps_compiled = 0
        self._steps_uncompiled = 0

    def __call__(self, batch: Any) -> None:
        """Train on a batch."""
        region = self._compilation.region
        if region is None:
            self._uncompiled(batch)
            self._prepare(batch)
        # A region of an earlier fit may exist already, but the first batch of each fit runs
        # uncompiled, with all checks.
        elif self.measurement.checked and region.takes(batch):
            self._run(region, batch)
        else:
            self._uncompiled(batch)
            self._steps_uncompiled += 1
            self._warn_of_shapes()

    def begin_epoch(self) -> None:
        """Discard a step that was compiled for other settings."""
        compilation = self._compilation
        if compilation.region is not None and (
            compilation.settings != self._settings() or compilation.region.stale
        ):
            # Compiling takes longer than many steps, so a region is kept over epochs and fits as
            # long as everything it was compiled for is the same.
            compilation.region = None

    def _run(self, region: CompiledRegion, batch: Any) -> None:
        try:
            y_pred, y_true, weight, parts, norm = region(batch)
        except CannotCompileError as error:
            # Nothing was changed before the error, so the batch can be trained on uncompiled.
            self._compilation.refuse(error)
            self._uncompiled(batch)
            return
        if not self._steps_compiled:
            # The fit that compiled reports the time; a later fit with the same region reports 0.
            self._compilation.seconds, region.seconds = region.seconds, 0.0
        self._steps_compiled += 1
        # A loss that is NaN is reported before its gradients' norm: it is the cause.
        self.measurement.record(y_pred, y_true, weight, parts)
        # The region has changed the weights already; what is left is to check and to count.
        self.update.check_norm(norm)
        self.update.advance()

    def _prepare(self, batch: Any) -> None:
        """Prepare to compile the step that has just run uncompiled on a batch."""
        compilation, measurement = self._compilation, self.measurement
        if compilation.refused:
            return
        try:
            compilation.region = CompiledRegion(
                measurement.forward, measurement.weigh, measurement.objective, self.update, batch
            )
        except CannotCompileError as error:
            compilation.refuse(error)
        compilation.settings = self._settings()

    def _settings(self) -> tuple[Any, ...]:
        """Return the settings that a compiled step depends on."""
        spec, update, classes = self.measurement.spec, self.update, self.measurement.class_weights
        trained = [parameter.requires_grad for parameter in update.parameters]
        return (
            (spec.net, spec.objective, spec.forward, update.optimizer),
            (spec.placement.device, spec.placement.dtype),
            update.clipping,
            None if classes is None else classes.weights,
            trained,
            compiled_constants(update.optimizer),
        )

    def _warn_of_shapes(self) -> None:
        steps = self._steps_compiled + self._steps_uncompiled
        if steps == _CHECKED_STEPS and self._steps_compiled < _LEAST_COMPILED * steps:
            warnings.warn(
                f"jit_compile: {self._steps_uncompiled} of {steps} batches differ in shape from "
                "the first and ran uncompiled; pad them to one length",
                stacklevel=2,
            )
