"""One step: forward and objective of a batch, and what adds up over a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.callbacks.logs import BatchLogs
from fitorch.data.in_memory import MemorySource
from fitorch.data.sources import Source
from fitorch.engine.checks import check_sample_weight
from fitorch.engine.placement import Placement
from fitorch.errors import annotate
from fitorch.losses.objective import Objective
from fitorch.losses.terms import Part
from fitorch.metrics.base import MetricSet
from fitorch.metrics.batching import MetricError
from fitorch.metrics.mean import Means
from fitorch.nets.forward import Forward, Hook, choose_forward, taking_logits
from fitorch.tree import describe


@dataclass(frozen=True, slots=True)
class Measures:
    """What a step measures, whatever its stage.

    Args:
        net: The net, on its device.
        objective: The loss of a batch.
        metrics: Name to metric, copied for each stage.
        placement: Device and precision.
        forward: The user's `forward(net, batch)`, or None.
        runner: What makes the user's step runners, a `RunnerKit`, or None.
    """

    net: nn.Module
    objective: Objective
    metrics: dict[str, Any]
    placement: Placement
    forward: Hook | None = None
    runner: Any = None


class EvaluationStep:
    """Forward and objective of a batch; the figures add up over the stage.

    Args:
        measures: What to measure.
        source: Where the batches come from.
        prefix: What the figures' names begin with.
        stopped: Says whether the stage should end early, or None.

    Attributes:
        batches: How many a validation that is over had, in this process; behind `result`, in all.
    """

    batches: int = 0

    def __init__(
        self,
        measures: Measures,
        source: Source,
        prefix: str = "val_",
        stopped: Callable[[], bool] | None = None,
    ) -> None:
        device = measures.placement.device
        self.objective = measures.objective
        self.losses = Means(device, self._summed())
        self.metrics = MetricSet(measures.metrics, device, measures.objective.scale)
        self.logs = BatchLogs(prefix, self.figures)
        self.measure = self._first_measure
        self._fixed: list[float] = []  # figures that do not depend on batches
        self.forward: Forward
        self.processes = measures.placement.processes
        self._measures = measures
        self._source = source
        self._prefix = prefix
        self._stopped = stopped

    def __call__(self, batch: Any) -> None:
        """Measure a batch."""
        self.measure(batch)

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        return self._stopped is not None and self._stopped()

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch

    def arranged(self, batches: Iterator[Any], steps: int | None) -> Iterator[Any]:
        """Give the batches of a stage as the step takes them.

        Args:
            batches: The batches.
            steps: How many there are, None where that is not known.
        """
        return batches

    def run_only(self, batch: Any) -> None:
        """Run the net on a batch, and count nothing."""
        self._choose_forward(batch)(batch)

    @torch.no_grad()
    def measure_penalties(self) -> None:
        """Measure the penalties, which stay the same as long as the net does."""
        values = {penalty.name: penalty() for penalty in self.objective.penalties}
        _check_scalars(values.items())
        self._fixed = [value.item() for value in values.values()]

    def reset(self) -> None:
        """Begin an epoch."""
        self.losses.reset()
        self.metrics.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted in the epoch so far."""
        return {"losses": self.losses.state_dict(), "metrics": self.metrics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.losses.load_state_dict(state["losses"])
        self.metrics.load_state_dict(state["metrics"])

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics so far; on an accelerator this waits for the device."""
        loss, losses = self.losses.compute()
        named = zip(self.objective.names, [*losses, *self._fixed], strict=False)
        values = {"loss": sum(self._fixed, start=loss), **self.metrics.compute(), **dict(named)}
        return {self._prefix + name: value for name, value in values.items()}

    def result(self, where: str) -> dict[str, float]:
        """Return the figures of a stage that is over; say once which metrics are not defined.

        Of several processes, each returns those of all that they counted, each sample once.

        Args:
            where: What to call the stage in the message of a metric that fails.
        """
        own = self.losses, self.metrics
        processes = self.processes
        try:
            if processes.several:
                self.losses, self.metrics = self._gathered()
            figures = self.figures()
        except MetricError as error:
            annotate(error, f"at the end of {where}")
            raise
        finally:
            summed, (self.losses, self.metrics) = self.metrics, own
        if processes.main:
            summed.warn_of_nan(self._prefix)
        return figures

    def _gathered(self) -> tuple[Means, MetricSet]:
        """Return losses and metrics over what all processes counted; they send one message."""
        everywhere: list[Any] = []
        sums = self.losses.sums()

        def gather(own: Any) -> list[Any]:
            everywhere.extend(self._from_all((self.batches, sums, own)))
            return [metrics for *_, metrics in everywhere]

        metrics = self.metrics.gathered(gather)
        self.batches = sum(batches for batches, *_ in everywhere)
        return self.losses.joined([sums for _, sums, _ in everywhere]), metrics

    def _from_all(self, part: Any) -> list[Any]:
        """Return what each process passed."""
        return self.processes.gather(part)

    def _summed(self) -> list[bool]:
        """Return for each term that is measured batch by batch whether its values are sums."""
        return self.objective.summed

    def _measure(self, batch: Any) -> list[Part]:
        y_pred, y_true, weight = self.forward(batch)
        parts = self.objective.compare(y_pred, y_true, self._weigh(y_true, weight))
        self._record(y_pred, y_true, weight, parts)
        return parts

    def _first_measure(self, batch: Any) -> list[Part]:
        """Settle how the net takes batches like this one; check that loss and targets fit."""
        self.forward = self._choose_forward(batch)
        y_pred, y_true, weight = self.forward(batch)
        whole = self.objective.own or self.objective.by_output
        if not whole and hasattr(y_pred, "logits"):
            self.forward, y_pred = taking_logits(self.forward), y_pred.logits
        self._check_fit(y_pred, y_true)
        check_sample_weight(weight, by_output=self.objective.by_output)
        parts = self.objective.compare(y_pred, y_true, self._weigh(y_true, weight))
        self._check_parts([*parts, *self._first_penalties(parts)])
        self._record(y_pred, y_true, weight, parts)
        self.measure = self._measure
        return parts

    def _first_penalties(self, parts: list[Part]) -> list[Part]:
        """Return the penalties to be checked beside the losses of the first batch."""
        return []

    def _weigh(self, y_true: Any, weight: Any) -> Any:
        """Return the samples' weights in the loss."""
        return weight

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[Part]) -> None:
        self.losses.add(parts)
        self.metrics.update(y_pred, y_true, weight)

    def _choose_forward(self, batch: Any) -> Forward:
        measures = self._measures
        return choose_forward(measures.net, batch, measures.placement.cast, measures.forward)

    def _check_fit(self, y_pred: Any, y_true: Any) -> None:
        if self.objective.own:
            if getattr(y_pred, "loss", None) is None:
                given = "with penalties alone" if self.objective.penalties else "without a loss"
                message = (
                    f"KerasModel was made {given}, and the net's output ({describe(y_pred)}) "
                    "carries no .loss; pass loss_fn"
                )
                raise TypeError(message)
            return
        self.objective.check(y_pred, y_true)
        tensors = self._source.tensors if isinstance(self._source, MemorySource) else ()
        if self._measures.forward is None and isinstance(tensors, list) and len(tensors) > 1:
            self.objective.check_targets(y_pred, tensors[1])  # all, not this batch's

    def _check_parts(self, parts: list[Any]) -> None:
        names = self.objective.names or [self.objective.name]
        _check_scalars(zip(names, (value for value, _ in parts), strict=False))


def _check_scalars(named: Iterable[tuple[str, Any]]) -> None:
    """Refuse losses and penalties that are no scalars.

    Raises:
        ValueError: It tells which, and what it gave.
    """
    for name, value in named:
        if not isinstance(value, Tensor) or value.numel() != 1:
            message = (
                f"{name} gave {describe(value)}, but a loss must be a scalar tensor; reduce it, "
                "with .mean() or reduction='mean', or tell that it gives a loss per sample: "
                "fitorch.losses.term(loss_fn, per_sample=True)"
            )
            raise ValueError(message)
