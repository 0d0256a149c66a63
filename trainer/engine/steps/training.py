"""A step of training: forward, objective, backward, update."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch

from fitorch.data.sources import Source
from fitorch.engine.checks import batch_norm_guarded
from fitorch.engine.class_weights import ClassWeights
from fitorch.engine.diagnostics import circumstances
from fitorch.errors import NonFiniteError
from fitorch.losses.terms import Part
from fitorch.optim.update import Update

from .evaluation import EvaluationStep, Measures


class TrainingStep(EvaluationStep):
    """A step that also goes backward and updates the weights.

    Args:
        measures: What to measure.
        source: Where the batches come from.
        update: Changes the weights.
        class_weights: Weights of the samples by class, or None.
        model: Its `stop_training` ends the epoch early.
    """

    _open: bool | int = False  # whether a window of several batches has begun that is one update

    def __init__(
        self,
        measures: Measures,
        source: Source,
        update: Update,
        class_weights: ClassWeights | None,
        model: Any,
    ) -> None:
        super().__init__(measures, source, prefix="train_")
        self.update = update
        self.model = model
        self._class_weights = class_weights

    def __call__(self, batch: Any) -> None:
        """Train on a batch."""
        self.update.zero_grad()
        self.update.backward(self.objective.total(self.measure(batch)))
        self.update()

    def begin_epoch(self) -> None:
        """Hear that an epoch begins, or goes on."""

    @property
    def at_boundary(self) -> bool:
        """Whether all batches that it took are in the weights."""
        return not self._open

    @property
    def done(self) -> bool:
        """Whether somebody asked to stop; a window that has begun is finished first."""
        return not self._open and bool(self.model.stop_training)

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics so far.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        values = super().figures()
        loss = values["train_loss"]
        if not isfinite(loss) and not self.losses.empty:
            found = zip(self.losses.compute()[1], self.losses.culprits(), strict=True)
            raise self._not_finite(loss, [term if culprit else 0.0 for term, culprit in found])
        return values

    def circumstances(self) -> str:
        """Return what helps to find the cause of a loss that is not finite."""
        rates, samples = self.update.learning_rates(), self._source.served()
        return circumstances(self._measures.net, rates, self.update.completed, samples)

    def _summed(self) -> list[bool]:
        return [*self.objective.summed, *[False] * len(self.objective.penalties)]

    def _first_penalties(self, parts: list[Part]) -> list[Part]:
        return self.objective.penalize(parts)

    def _weigh(self, y_true: Any, weight: Any) -> Any:
        return weight if self._class_weights is None else self._class_weights(y_true, weight)

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        if self.objective.penalties:
            with torch.no_grad():
                parts = [*parts, *self.objective.penalize(parts)]
        self._tally(y_pred, y_true, weight, parts)

    def _tally(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        """Count a batch in, its penalties being among the parts."""
        loss = self.losses.add(parts)
        if not isfinite(loss):
            raise self._not_finite(loss, [value.item() for value, _ in parts])
        self.metrics.update(y_pred, y_true, weight)

    def _not_finite(self, loss: float, terms: list[float]) -> NonFiniteError:
        named = zip(self.objective.names, terms, strict=False)
        wrong = ", ".join(f"{name} is {value}" for name, value in named if not isfinite(value))
        message = f"the training loss ({self.objective.name}) is {loss}"
        return NonFiniteError(f"{message}: {wrong}" if wrong else message)

    def _first_measure(self, batch: Any) -> list[Part]:
        with batch_norm_guarded(self._measures.net, self._smallest_batch):
            return super()._first_measure(batch)

    @property
    def _smallest_batch(self) -> int | None:
        """The samples that a batch norm sees at least, as far as known."""
        return self._source.smallest_batch

    def _check_parts(self, parts: list[Any]) -> None:
        super()._check_parts(parts)
        if not any(value.requires_grad for value, _ in parts[: len(self.objective.losses)]):
            frozen = sum(not p.requires_grad for p in self._measures.net.parameters())
            message = (
                f"{self.objective.name} gave a loss without a gradient (requires_grad=False; "
                f"{frozen} parameters of the net are frozen); look for no_grad(), .detach(), "
                ".item() or argmax between the net's output and the loss"
            )
            raise ValueError(message)
