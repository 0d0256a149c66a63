"""Measure a batch of training: class weights, penalties, and a loss that must be finite."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch

from fitorch.data.sources import Source
from fitorch.devices.accelerators import is_host
from fitorch.engine.checks import batch_norm_guarded
from fitorch.engine.class_weights import ClassWeights
from fitorch.errors import NonFiniteError
from fitorch.losses.terms import TermValue

from .measurement import Gather, Measurement, MeasurementSpec
from .nonfinite_watch import NonFiniteWatch


class TrainingMeasurement(Measurement):
    """The forward pass and the objective of a batch whose loss is trained on.

    Args:
        spec: What to measure.
        source: Where the batches come from.
        class_weights: Weights of the samples by class, or None.
        gather: See `Measurement`.
        guards_batch_norm: Whether batch norms see the samples of one process alone, so that a
            batch of one sample fails; the first batch then checks the smallest one.

    Attributes:
        counts: Whether the batch that is measured is counted. A process whose data has ended runs
            a batch once more, because the others wait for its part in the collectives.
        on_nonfinite: Called if a loss is NaN or infinite; raises the error by default.
    """

    def __init__(
        self,
        spec: MeasurementSpec,
        source: Source,
        class_weights: ClassWeights | None = None,
        gather: Gather | None = None,
        *,
        guards_batch_norm: bool = True,
    ) -> None:
        super().__init__(spec, source, "train_", gather)
        self.counts = True
        self.on_nonfinite: Callable[[NonFiniteError], None] = _raise
        self.class_weights = class_weights
        self._guards_batch_norm = guards_batch_norm
        # On the CPU, each loss is looked at.
        watched = not is_host(spec.placement.device)
        self._watch = NonFiniteWatch(self.losses) if watched else None

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics so far.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        values = super().figures()
        loss = values["train_loss"]
        # On an accelerator the values are read only here, long after the batch. Once the weights
        # are NaN all terms are, so `culprits` finds those that were wrong first.
        if not isfinite(loss) and not self.losses.empty:
            raise self._found_late(loss)
        return values

    def record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[TermValue]) -> None:
        """Count a batch, whose penalties are among the parts of its loss."""
        # On an accelerator `add` returns 0 without a read, and `figures` raises the error later.
        loss = self.add_losses(parts)
        if not isfinite(loss):
            # A loss that is known here lies on the CPU, so nothing waits.
            self.on_nonfinite(self._not_finite(loss, [value.item() for value, _ in parts]))
            # This is reached only if `on_nonfinite` defers the error, as it does with several
            # processes.
            return
        self.metrics.update(y_pred, y_true, weight)
        if self._watch is not None and self._watch() is not None:
            # This waits for the device, after training has failed.
            self.on_nonfinite(self._found_late(self.losses.compute()[0]))

    def weigh(self, y_true: Any, weight: Any) -> Any:
        """Return the weights of the samples in the loss, class weights included."""
        return weight if self.class_weights is None else self.class_weights(y_true, weight)

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[TermValue]) -> None:
        if self.objective.penalties:
            # Measured even for a batch that does not count: with a sharded net, each process
            # takes part in gathering the weights.
            with torch.no_grad():
                parts = [*parts, *self.objective.penalize(parts)]
        # A repeated batch must not appear in the values of the epoch.
        if self.counts:
            self.record(y_pred, y_true, weight, parts)

    def _summed(self) -> list[bool]:
        return [*self.objective.summed, *[False] * len(self.objective.penalties)]

    def _first_penalties(self, parts: list[TermValue]) -> list[TermValue]:
        return self.objective.penalize(parts)

    def _measure_first(self, batch: Any) -> list[TermValue]:
        smallest = self.source.smallest_batch if self._guards_batch_norm else None
        with batch_norm_guarded(self.spec.net, smallest):
            return super()._measure_first(batch)

    def _check_fit(self, y_pred: Any, y_true: Any) -> None:
        super()._check_fit(y_pred, y_true)
        if self.class_weights is not None:
            self.class_weights.check(y_pred, y_true)

    def _check_parts(self, parts: list[Any]) -> None:
        super()._check_parts(parts)
        if not any(value.requires_grad for value, _ in parts[: len(self.objective.losses)]):
            frozen = sum(not p.requires_grad for p in self.spec.net.parameters())
            message = (
                f"{self.objective.name} returned a loss without a gradient (requires_grad=False; "
                f"{frozen} parameters of the net are frozen); look for no_grad(), .detach(), "
                ".item() or argmax between the net's output and the loss"
            )
            raise ValueError(message)

    def _found_late(self, loss: float) -> NonFiniteError:
        """Return the error for a loss of an earlier batch; it names the terms that were first."""
        terms = zip(self.losses.compute()[1], self.losses.culprits(), strict=True)
        error = self._not_finite(loss, [term if culprit else 0.0 for term, culprit in terms])
        error.batches_since = self.losses.since_nonfinite()
        return error

    def _not_finite(self, loss: float, terms: list[float]) -> NonFiniteError:
        named = zip(self.objective.names, terms, strict=False)
        wrong = ", ".join(f"{name} is {value}" for name, value in named if not isfinite(value))
        message = f"the training loss ({self.objective.name}) is {loss}"
        return NonFiniteError(f"{message}: {wrong}" if wrong else message)


def _raise(error: NonFiniteError) -> None:
    raise error
