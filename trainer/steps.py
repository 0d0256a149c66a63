"""One step: forward, objective, and in training backward and update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.callbacks.base import BatchLogs
from fitorch.losses import Objective
from fitorch.losses.terms import Part
from fitorch.metrics import MetricSet
from fitorch.metrics.mean import Means

from .data import Source
from .errors import NonFiniteError
from .explain import circumstances
from .feed import windows
from .forward import ClassWeights, Forward, Hook, choose_forward, taking_logits
from .interrupt import Interrupt
from .memory import MemorySource
from .placement import Placement
from .preflight import batch_norm_guarded
from .structure import describe, sample_count
from .update import Update


@dataclass(frozen=True, slots=True)
class Measures:
    """What a step measures, whatever its stage.

    Args:
        net: The net, on its device.
        objective: The loss of a batch.
        metrics: Name to metric, copied for each stage.
        placement: Device and precision.
        forward: The user's `forward(net, batch)`, or None.
    """

    net: nn.Module
    objective: Objective
    metrics: dict[str, Any]
    placement: Placement
    forward: Hook | None = None


class EvaluationStep:
    """Forward and objective of a batch; the figures add up over the stage.

    Args:
        measures: What to measure.
        source: Where the batches come from.
        prefix: What the figures' names begin with.
        interrupt: Ends the stage early, or None.
    """

    def __init__(
        self,
        measures: Measures,
        source: Source,
        prefix: str = "val_",
        interrupt: Interrupt | None = None,
    ) -> None:
        device = measures.placement.device
        self.objective = measures.objective
        self.losses = Means(device, self._summed())
        self.metrics = MetricSet(
            measures.metrics, device, from_logits=measures.objective.from_logits
        )
        self.logs = BatchLogs(prefix, self.figures)
        self.measure = self._first_measure
        self.forward: Forward
        self._measures = measures
        self._source = source
        self._prefix = prefix
        self._interrupt = interrupt

    def __call__(self, batch: Any) -> None:
        """Measure a batch."""
        self.measure(batch)

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do: on Ctrl-C."""
        return self._interrupt is not None and self._interrupt.requested

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch

    def reset(self) -> None:
        """Begin an epoch."""
        self.losses.reset()
        self.metrics.reset()

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics so far; on an accelerator this waits for the device."""
        terms = self._terms()
        named = zip(self.objective.names, terms, strict=False)  # none for a single loss
        values = {"loss": sum(terms), **dict(named), **self.metrics.compute()}
        return {self._prefix + name: value for name, value in values.items()}

    def _summed(self) -> list[bool]:
        """Return for each term that is measured batch by batch whether its values are sums."""
        return self.objective.summed

    def _terms(self) -> list[float]:
        """Return the figure of each term so far; the net, and so its penalties, stays the same."""
        return [*self.losses.compute(), *(term().item() for term in self.objective.penalties)]

    def _measure(self, batch: Any) -> list[Part]:
        y_pred, y_true, weight = self.forward(batch)
        parts = self.objective.compare(y_pred, y_true, weight)
        self._record(y_pred, y_true, parts)
        return parts

    def _first_measure(self, batch: Any) -> list[Part]:
        """Settle how the net takes batches like this one; check that loss and targets fit."""
        self.forward = self._choose_forward(batch)
        y_pred, y_true, weight = self.forward(batch)
        whole = self.objective.own or self.objective.by_output
        if not whole and hasattr(y_pred, "logits"):
            self.forward, y_pred = taking_logits(self.forward), y_pred.logits
        self._check_fit(y_pred, y_true)
        parts = self.objective.compare(y_pred, y_true, weight)
        self._check_parts(parts)
        self._record(y_pred, y_true, parts)
        self.measure = self._measure
        return parts

    def _record(self, y_pred: Any, y_true: Any, parts: list[Part]) -> None:
        self.losses.add(parts)
        self.metrics.update(y_pred, y_true)

    def _choose_forward(self, batch: Any) -> Forward:
        measures = self._measures
        return choose_forward(measures.net, batch, measures.placement.cast, measures.forward)

    def _check_fit(self, y_pred: Any, y_true: Any) -> None:
        if self.objective.own:
            if getattr(y_pred, "loss", None) is None:
                message = (
                    "KerasModel was made without a loss, and the net's output "
                    f"({describe(y_pred)}) carries no .loss; pass loss_fn"
                )
                raise TypeError(message)
            return
        self.objective.check(y_pred, y_true)
        tensors = self._source.tensors if isinstance(self._source, MemorySource) else ()
        if self._measures.forward is None and isinstance(tensors, list) and len(tensors) > 1:
            self.objective.check_targets(y_pred, tensors[1])  # all, not this batch's

    def _check_parts(self, parts: list[Any]) -> None:
        names = self.objective.names or [self.objective.name]
        for name, (value, _) in zip(names, parts, strict=False):
            if not isinstance(value, Tensor) or value.numel() != 1:
                message = (
                    f"{name} gave {describe(value)}, but a loss must be a scalar tensor; reduce "
                    "it, with .mean() or reduction='mean', or tell that it gives a loss per "
                    "sample: fitorch.losses.term(loss_fn, per_sample=True)"
                )
                raise ValueError(message)


class TrainingStep(EvaluationStep):
    """A step that also goes backward and updates the weights.

    Args:
        measures: What to measure.
        source: Where the batches come from.
        update: Changes the weights.
        class_weights: Weights of the samples by class, or None.
        model: Its `stop_training` ends the epoch early.
    """

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

    @property
    def done(self) -> bool:
        """Whether somebody asked to stop."""
        return bool(self.model.stop_training)

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics so far.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        values = super().figures()
        if not self.losses.empty and not isfinite(values["train_loss"]):
            raise self._not_finite(values["train_loss"], self._terms())
        return values

    def circumstances(self) -> str:
        """Return what helps to find the cause of a loss that is not finite."""
        rates, samples = self.update.learning_rates(), self._source.served()
        return circumstances(self._measures.net, rates, self.update.completed, samples)

    def _summed(self) -> list[bool]:
        return [*self.objective.summed, *[False] * len(self.objective.penalties)]

    def _terms(self) -> list[float]:
        return self.losses.compute()

    def _record(self, y_pred: Any, y_true: Any, parts: list[Part]) -> None:
        if self.objective.penalties:
            with torch.no_grad():
                parts = [*parts, *self.objective.penalize(parts)]
        loss = self.losses.add(parts)
        if not isfinite(loss):
            raise self._not_finite(loss, [value.item() for value, _ in parts])
        self.metrics.update(y_pred, y_true)

    def _not_finite(self, loss: float, terms: list[float]) -> NonFiniteError:
        named = zip(self.objective.names, terms, strict=False)
        wrong = ", ".join(f"{name} is {value}" for name, value in named if not isfinite(value))
        message = f"the training loss ({self.objective.name}) is {loss}"
        return NonFiniteError(f"{message}: {wrong}" if wrong else message)

    def _first_measure(self, batch: Any) -> list[Part]:
        with batch_norm_guarded(self._measures.net, self._source.smallest_batch):
            return super()._first_measure(batch)

    def _choose_forward(self, batch: Any) -> Forward:
        measures = self._measures
        return choose_forward(
            measures.net, batch, measures.placement.cast, measures.forward, self._class_weights
        )

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


class AccumulatingStep(TrainingStep):
    """A training step that updates once per window of batches.

    It takes what `windows` gives: a batch, what to divide its losses by, whether it ends a window.
    """

    _open = False

    def __call__(self, batch: tuple[Any, list[Any], bool]) -> None:
        """Train on a batch, updating at the end of its window."""
        micro_batch, divisors, closes = batch
        if not self._open:
            self.update.zero_grad()
        self.update.backward(self.objective.total(self.measure(micro_batch), divisors))
        self._open = not closes
        if closes:
            self.update()

    @property
    def done(self) -> bool:
        """Whether somebody asked to stop; a window that has begun is finished first."""
        return not self._open and super().done

    def user_batch(self, batch: tuple[Any, list[Any], bool]) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch[0]

    def windows(self, batches: Iterator[Any], size: int) -> Iterator[tuple[Any, list[Any], bool]]:
        """Group batches to windows of `size`."""
        return windows(batches, size, self._count)

    def _targets_of(self, batch: Any) -> tuple[Any, Any]:
        """Return targets and sample weights, None where they are not known before the forward."""
        if self._measures.forward is not None:
            return None, None
        if isinstance(batch, Mapping):
            return batch.get("labels"), batch.get("sample_weight")
        if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
            return batch[1], batch[2] if len(batch) == 3 else None
        return None, None

    def _count(self, batch: Any) -> list[Any]:
        """Return how much a batch counts in its window: its share in the mean of each loss."""
        y_true, weight = self._targets_of(batch)
        if y_true is None:
            return [sample_count(batch)] * len(self.objective.losses)
        if self._class_weights is not None:
            weight = self._class_weights(y_true, weight)
        shares = self.objective.shares(None, y_true, weight)
        return [_positive(share) for share in shares]


def _positive(share: int | Tensor) -> int | Tensor:
    """Return a share that can be divided by: all samples of a batch may weigh 0."""
    if isinstance(share, Tensor):
        return share.clamp_min(torch.finfo(torch.float32).tiny)
    return share
