"""Measure a batch: forward, objective and metrics, and the sums of them over a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch.callbacks.logs import BatchLogs
from fitorch.data.in_memory import MemorySource
from fitorch.data.sources import Source
from fitorch.engine.checks import check_sample_weight
from fitorch.engine.placement import Placement
from fitorch.errors import RankError, annotate
from fitorch.losses.net_loss import loss_in
from fitorch.losses.objective import Objective
from fitorch.losses.terms import TermValue
from fitorch.metrics.base import MetricSet
from fitorch.metrics.batching import MetricError
from fitorch.metrics.means import Means
from fitorch.metrics.unread import Unread, together
from fitorch.nets.forward import Forward, Hook, choose_forward
from fitorch.tree import describe

from .shape_watch import ShapeWatch

if TYPE_CHECKING:
    from fitorch.engine.custom_step.functions import StepFunctions
    from fitorch.engine.step_runner.kit import RunnerKit

Gather = Callable[[Any], list[Any]]  # what each process passed, in the order of the ranks


@dataclass(frozen=True, slots=True)
class MeasurementSpec:
    """What is measured, whatever the stage.

    Args:
        net: The net, on its device.
        objective: The loss of a batch.
        metrics: Name to metric; each stage measures with copies of its own.
        placement: Device, precision and processes.
        forward: The user's `forward(net, batch)`, or None.
        runner: What makes the user's step runners, a `RunnerKit`, or None.
        steps: The user's own step functions, or None.
    """

    net: nn.Module
    objective: Objective
    metrics: dict[str, Any]
    placement: Placement
    forward: Hook | None = None
    runner: RunnerKit | None = None
    steps: StepFunctions | None = None


class Measurement:
    """The forward pass and the objective of a batch; losses and metrics add up over a stage.

    Args:
        spec: What to measure.
        source: Where the batches come from.
        prefix: What the names of the values begin with, as "val_".
        gather: Collects a value from each process at the end of a stage; by default one
            collective of its own.

    Attributes:
        measure: Measures a batch and returns the terms of its loss. The first batch goes through
            `_measure_first`, which checks everything and then replaces this attribute: later
            batches pay for a comparison of shapes.
        batches: The batches of a stage that has ended, in this process; after `result`, in all.
    """

    batches: int = 0

    def __init__(
        self,
        spec: MeasurementSpec,
        source: Source,
        prefix: str = "val_",
        gather: Gather | None = None,
    ) -> None:
        device = spec.placement.device
        self.spec = spec
        self.source = source
        self.objective = spec.objective
        self.processes = spec.placement.processes
        self.losses = Means(device, self._summed())
        objective = spec.objective
        self.metrics = MetricSet(
            spec.metrics,
            device,
            objective.prediction_kind,
            objective.ignored_class,
            objective.classes_last,
            objective.shifted,
        )
        self.logs = BatchLogs(prefix, self.figures)
        self.measure: Callable[[Any], list[TermValue]] = self._measure_first
        self.forward: Forward
        self._watch_shapes: ShapeWatch
        self.prefix = prefix
        self._gather = gather or self.processes.gather
        self._penalties: list[Tensor] = []  # of a validation, in which the net does not change

    @property
    def net(self) -> nn.Module:
        """The net, on its device."""
        return self.spec.net

    @property
    def checked(self) -> bool:
        """Whether a batch has passed all checks."""
        return self.measure != self._measure_first

    @property
    def tasks(self) -> dict[str, str]:
        """What each metric given by name measures; known after the first batch."""
        return self.metrics.tasks

    def run_only(self, batch: Any) -> None:
        """Run the net on a batch without counting it."""
        # `self.forward` does not exist yet if this process has not had a batch of its own.
        self._choose_forward(batch)(batch)

    @torch.no_grad()
    def measure_penalties(self) -> None:
        """Measure the penalties once for a stage in which the net does not change."""
        values = {penalty.name: penalty() for penalty in self.objective.penalties}
        _check_scalars(values.items())
        self._penalties = list(values.values())

    def reset(self) -> None:
        """Start a new stage."""
        self.losses.reset()
        self.metrics.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the stage so far."""
        losses, metrics = self.losses.state_dict(), self.metrics.state_dict()
        return {"losses": losses, "metrics": metrics, "answers": self.objective.answers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a stage."""
        self.objective.restore_answers(state.get("answers", self.objective.answers))
        self.losses.settle(self._summed())
        self.losses.load_state_dict(state["losses"])
        self.metrics.load_state_dict(state["metrics"])

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics so far; on an accelerator this waits for the device."""
        penalties = Unread(self._penalties, lambda rows: [row[0] for row in rows])
        # All of them are read together.
        unread = together([self.losses.unread(), self.metrics.unread(), penalties])
        (loss, losses, parts), metrics, penalized = unread.read()
        named = zip(self.objective.names, [*losses, *penalized], strict=False)
        values = {"loss": sum(penalized, start=loss), **metrics, **dict(named)}
        for name, part in parts.items():
            values[f"{name}_loss" if name in values else name] = part
        return {self.prefix + name: value for name, value in values.items()}

    def result(self, where: str) -> dict[str, float]:
        """Return the values of a stage that has ended, over the samples of all processes.

        Warns once about each metric that is not defined on this data.

        Args:
            where: The name of the stage in the message of a metric that fails.
        """
        local = self.losses, self.metrics
        try:
            if self.processes.is_distributed:
                # A process without a single batch takes part too, because the others wait in the
                # collective.
                self.losses, self.metrics = self._gathered()
            figures = self.figures()
        except MetricError as error:
            annotate(error, f"at the end of {where}")
            raise
        finally:
            # The sums of this process are kept: the stage may go on after a look at its values.
            gathered, (self.losses, self.metrics) = self.metrics, local
        if self.processes.is_main:
            gathered.warn_of_nan(self.prefix)
        return figures

    def _gathered(self) -> tuple[Means, MetricSet]:
        """Return losses and metrics over the batches of all processes, in one collective."""
        parts: list[Any] = []  # batches, sums of losses and states of metrics of each process
        # This waits for the device.
        sums = self.losses.sums()

        def gather(states: object) -> list[Any]:
            answers = self.objective.answers if self.batches else None
            parts.extend(self._gather((self.batches, sums, answers, states)))
            return [states for *_, states in parts]

        metrics = self.metrics.gathered(gather)
        self.batches = sum(batches for batches, *_ in parts)
        check_answers(self.objective, [answers for *_, answers, _ in parts if answers is not None])
        return self.losses.joined([sums for _, sums, *_ in parts]), metrics

    def _summed(self) -> list[bool]:
        """Return for each term that is measured per batch whether its values are sums."""
        return self.objective.summed

    def _measure(self, batch: Any) -> list[TermValue]:
        y_pred, y_true, weight = self.forward(batch)
        self._watch_shapes(y_pred, y_true)
        parts = self.objective.compare(y_pred, y_true, self.weigh(y_true, weight), batch)
        self._record(y_pred, y_true, weight, parts)
        return parts

    def _measure_first(self, batch: Any) -> list[TermValue]:
        """Choose how the net is called with batches like this one; check loss and targets."""
        self.forward = self._choose_forward(batch)
        # The checks reuse the outputs of this forward pass: a second one would draw random numbers,
        # for example for dropout, and update the statistics of batch norms twice.
        y_pred, y_true, weight = self.forward(batch)
        self._check_fit(y_pred, y_true)
        self.losses.settle(self._summed())  # a loss of the user's may have turned out to be a mean
        check_sample_weight(weight, by_output=self.objective.by_output)
        parts = self.objective.compare(y_pred, y_true, self.weigh(y_true, weight), batch)
        self._check_parts([*parts, *self._first_penalties(parts)])
        self._record(y_pred, y_true, weight, parts)
        self._watch_shapes = ShapeWatch(self.objective, y_pred, y_true)
        # The checks end only here: if one fails, the next batch must pass them too.
        self.measure = self._measure
        return parts

    def _first_penalties(self, parts: list[TermValue]) -> list[TermValue]:
        """Return the penalties that are checked with the losses of the first batch."""
        return []

    def weigh(self, y_true: Any, weight: Any) -> Any:
        """Return the weights of the samples in the loss."""
        return weight

    def _record(self, y_pred: Any, y_true: Any, weight: Any, parts: list[TermValue]) -> None:
        self.add_losses(parts)
        self.metrics.update(y_pred, y_true, weight)

    def add_losses(self, parts: list[TermValue]) -> float:
        """Add the losses of a batch; return their sum if that does not wait for a device."""
        terms = self.objective.losses
        if len(terms) > 1 or terms[0].parts:  # a fast path for every step of a single loss
            self._add_parts(parts)
        return self.losses.add(parts)

    def _add_parts(self, parts: list[TermValue]) -> None:
        """Add the parts that losses returned beside their values."""
        terms = self.objective.losses
        for term, (_, normalizer) in zip(terms, parts, strict=False):
            for name, part in term.parts.items():
                # Parts of several losses are named after their loss, so that each has a column.
                column = name if len(terms) == 1 else f"{term.name}_{name}"
                self.losses.add_part(column, part, normalizer, summed=term.summed)

    def _choose_forward(self, batch: Any) -> Forward:
        spec = self.spec
        return choose_forward(spec.net, batch, spec.placement.cast, spec.forward)

    def _check_fit(self, y_pred: Any, y_true: Any) -> None:
        if self.objective.uses_net_loss:
            if loss_in(y_pred) is None:
                loss = "only penalties" if self.objective.penalties else "no loss"
                message = (
                    f"KerasModel has {loss}, and the net's output ({describe(y_pred)}) does not "
                    "have a .loss; pass loss_fn"
                )
                raise TypeError(message)
            return
        self.objective.check(y_pred, y_true)
        tensors = self.source.tensors if isinstance(self.source, MemorySource) else ()
        if self.spec.forward is None and isinstance(tensors, list) and len(tensors) > 1:
            self.objective.check_targets(y_pred, tensors[1])  # all of them, not this batch's

    def _check_parts(self, parts: list[Any]) -> None:
        names = self.objective.names or [self.objective.name]
        _check_scalars(zip(names, (value for value, _ in parts), strict=False))


def check_answers(objective: Objective, answers: list[Any]) -> None:
    """Check that the first batches of all processes have shown the same about the losses.

    Raises:
        RankError: They have not: the processes would weigh their batches differently.
    """
    if any(answer != answers[0] for answer in answers):
        message = (
            f"what {objective.name} is a mean over differs between the first batches of the "
            "processes; pass a loss of torch, or fitorch.losses.term(loss_fn, per_sample=True)"
        )
        raise RankError(message)


def _check_scalars(named: Iterable[tuple[str, Any]]) -> None:
    """Raise an error for losses and penalties that are not scalars.

    Raises:
        ValueError: A value is not a scalar tensor; the message names its term.
    """
    for name, value in named:
        if not isinstance(value, Tensor) or value.numel() != 1:
            message = (
                f"{name} returned {describe(value)}, but a loss must be a scalar tensor; reduce it "
                "with .mean() or reduction='mean', or pass a loss per sample as "
                "fitorch.losses.term(loss_fn, per_sample=True)"
            )
            raise ValueError(message)
