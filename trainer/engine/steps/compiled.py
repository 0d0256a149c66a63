"""Training with whole steps compiled by torch, where it can."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from .compiled_optimizer import CannotCompileError, settings_of
from .compiled_region import Region
from .training import TrainingStep

_ENOUGH = 32  # batches to judge by

_MANY = 0.5  # the part of them that should be compiled


@dataclass(slots=True)
class Compilation:
    """What a model compiled, kept from fit to fit.

    Attributes:
        region: The compiled step, None where there is none (yet).
        settings: What it was compiled for.
        seconds: What compiling took.
        refused: Whether torch can't.
    """

    region: Region | None = None
    settings: Any = None
    seconds: float = 0.0
    refused: bool = False

    def refuse(self, reason: object) -> None:
        """Do without from now on, and say so once."""
        if not self.refused:
            warnings.warn(
                f"jit_compile: the training step can't be compiled and runs as without: {reason}",
                stacklevel=2,
            )
        self.region, self.refused = None, True


class CompiledStep(TrainingStep):
    """A training step whose batches go through one compiled region.

    The first batch goes through the loop as ever, which settles and checks everything. Batches of
    other shapes, as the last and shorter one of an epoch, do so too: nothing is compiled for them.
    """

    compilation: Compilation
    _compiled = 0
    _plain = 0

    def __call__(self, batch: Any) -> None:
        """Train on a batch."""
        region = self.compilation.region
        if region is None:
            super().__call__(batch)
            self._settle(batch)
        elif self._measured_before and region.takes(batch):
            self._run(region, batch)
        else:
            super().__call__(batch)
            self._plain += 1
            self._warn_of_shapes()

    def begin_epoch(self) -> None:
        """Forget what was compiled for other settings."""
        compilation = self.compilation
        if compilation.region is not None and (
            compilation.settings != self._settings() or compilation.region.stale
        ):
            compilation.region = None

    def _run(self, region: Region, batch: Any) -> None:
        try:
            y_pred, y_true, weight, parts, norm = region(batch)
        except CannotCompileError as error:
            self.compilation.refuse(error)
            super().__call__(batch)
            return
        if not self._compiled:
            self.compilation.seconds, region.seconds = region.seconds, 0.0
        self._compiled += 1
        self._tally(y_pred, y_true, weight, parts)  # a loss that is NaN is told before its norm
        self.update.check_norm(norm)
        self.update.advance()

    def _settle(self, batch: Any) -> None:
        """Prepare to compile the step that the batch just took."""
        compilation = self.compilation
        if compilation.refused:
            return
        try:
            compilation.region = Region(
                self.forward, self._weigh, self.objective, self.update, batch
            )
        except CannotCompileError as error:
            compilation.refuse(error)
        compilation.settings = self._settings()

    def _settings(self) -> Any:
        """Return what a compiled step stays valid for."""
        measures, update, classes = self._measures, self.update, self._class_weights
        trained = [parameter.requires_grad for parameter in update.parameters]
        return (
            (measures.net, measures.objective, measures.forward, update.optimizer),
            (measures.placement.device, measures.placement.dtype),
            update.clipping,
            None if classes is None else classes.weights,
            trained,
            settings_of(update.optimizer),
        )

    @property
    def _measured_before(self) -> bool:
        """Whether this fit's first batch has passed all checks."""
        return self.measure != self._first_measure

    def _warn_of_shapes(self) -> None:
        steps = self._compiled + self._plain
        if steps == _ENOUGH and self._compiled < _MANY * steps:
            warnings.warn(
                f"jit_compile: {self._plain} of {steps} batches differ in shape from the first and "
                "ran uncompiled; pad them to one length",
                stacklevel=2,
            )
