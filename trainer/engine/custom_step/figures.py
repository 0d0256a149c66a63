"""The figures that the user's step returns, over a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.callbacks.logs import BatchLogs
from fitorch.data.sources import Source
from fitorch.devices.accelerators import is_host
from fitorch.engine.steps.measurement import Gather, MeasurementSpec
from fitorch.errors import NonFiniteError
from fitorch.metrics.base import MetricSet
from fitorch.metrics.means import Means
from fitorch.metrics.unread import together

_LOSS = "loss"


class StepFigures:
    """Means of what a step returns, weighted by the samples of each batch, and metrics.

    Args:
        spec: The net, the metrics and the device.
        source: Where the batches come from.
        prefix: What the names of the values begin with, as "train_".
        gather: Collects a value from each process at the end of a stage.

    Attributes:
        metrics: The metrics of `metrics_dict`, which `model.measure` updates.
        batches: The batches of a stage that has ended, in this process; after `result`, in all.
        batches_added: The batches that this object has got, over all stages.
    """

    batches: int = 0

    def __init__(
        self, spec: MeasurementSpec, source: Source, prefix: str, gather: Gather | None = None
    ) -> None:
        assert spec.steps is not None
        self.spec, self.source, self.prefix = spec, source, prefix
        self.processes = spec.placement.processes
        self._name = spec.steps.name
        self._device = spec.placement.device
        self._means = Means(self._device, [])
        objective = spec.objective
        self.metrics = MetricSet(
            spec.metrics,
            self._device,
            objective.prediction_kind,
            objective.ignored_class,
            objective.classes_last,
            objective.shifted,
        )
        self.logs = BatchLogs(prefix, self.figures)
        self._gather: Callable[[Any], list[Any]] = gather or self.processes.gather
        self._known: set[str] = set()  # names that were checked
        self.batches_added = 0

    @property
    def net(self) -> nn.Module:
        """The net, on its device."""
        return self.spec.net

    @property
    def tasks(self) -> dict[str, str]:
        """What each metric given by name measures; known after the first update."""
        return self.metrics.tasks

    def add(self, returned: object, samples: int) -> None:
        """Add what the step returned for a batch.

        Args:
            returned: Numbers and scalar tensors by name; a pair `(value, weight)` counts by its own
                weight instead of the samples.
            samples: The samples of the batch.

        Raises:
            TypeError: It is not a mapping of these.
            ValueError: A name is that of a metric.
            NonFiniteError: The loss is NaN or infinite.
        """
        if not isinstance(returned, Mapping):
            message = (
                f"{self._name} returned {_described(returned)}; expected a mapping of figures, as "
                "{'loss': loss, 'accuracy': accuracy}"
            )
            raise TypeError(message)
        self.batches_added += 1
        for name, value in returned.items():
            weight: Any = samples
            if isinstance(value, tuple) and len(value) == 2:
                value, weight = value
            self._check(name, value)
            tensor = torch.as_tensor(value, device=self._device).detach()
            tensor = tensor if tensor.is_floating_point() else tensor.double()
            self._means.add_part(name, tensor.reshape(()), weight, summed=False)
            if name == _LOSS and is_host(tensor) and not math.isfinite(tensor):
                message = f"the loss that {self._name} returned is {tensor.item()}"
                raise NonFiniteError(message)

    def figures(self) -> dict[str, float]:
        """Return the means and the metrics so far; on an accelerator this waits for the device.

        Raises:
            NonFiniteError: The loss of training is NaN or infinite.
        """
        (_, _, parts), metrics = together([self._means.unread(), self.metrics.unread()]).read()
        if not math.isfinite(parts.get(_LOSS, 0.0)) and self.prefix == "train_":
            message = f"the loss that {self._name} returned is {parts[_LOSS]}"
            raise NonFiniteError(message)
        return {self.prefix + name: value for name, value in {**parts, **metrics}.items()}

    def check_monitored(self, column: str) -> None:
        """Raise an error if a monitored value of this stage was in no batch.

        Args:
            column: The monitored value, as "train_loss".

        Raises:
            ValueError: The step has not returned it.
        """
        name = column.removeprefix(self.prefix)
        known = [*self._known, *self.spec.metrics]
        if column.startswith(self.prefix) and not any(name.startswith(each) for each in known):
            message = (
                f"{column!r} is monitored, but {self._name} returned {sorted(self._known)}; return "
                f"{name!r} too, or pass monitor={self.prefix + min(known, default='loss')!r}"
            )
            raise ValueError(message)

    def result(self, where: str) -> dict[str, float]:
        """Return the values of a stage that has ended, over the samples of all processes."""
        local = self._means, self.metrics
        try:
            if self.processes.is_distributed:
                self._means, self.metrics = self._gathered()
            figures = self.figures()
        finally:
            gathered, (self._means, self.metrics) = self.metrics, local
        if self.processes.is_main:
            gathered.warn_of_nan(self.prefix)
        return figures

    def reset(self) -> None:
        """Start a new stage."""
        self._means.reset()
        self.metrics.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the stage so far."""
        return {"means": self._means.state_dict(), "metrics": self.metrics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a stage."""
        self._means.load_state_dict(state["means"])
        self.metrics.load_state_dict(state["metrics"])

    def _gathered(self) -> tuple[Means, MetricSet]:
        parts: list[Any] = []
        sums = self._means.sums()

        def gather(states: object) -> list[Any]:
            parts.extend(self._gather((self.batches, sums, states)))
            return [states for *_, states in parts]

        metrics = self.metrics.gathered(gather)
        self.batches = sum(batches for batches, *_ in parts)
        return self._means.joined([sums for _, sums, _ in parts]), metrics

    def _check(self, name: Any, value: Any) -> None:
        """Raise an error for a figure that is no number, and for a name that is taken."""
        if not hasattr(value, "__float__") or (isinstance(value, Tensor) and value.numel() != 1):
            message = (
                f"{self._name} returned {_described(value)} as {name!r}; expected a number, a "
                "scalar tensor, or a pair of one and its weight"
            )
            raise TypeError(message)
        if name in self._known:
            return
        if not isinstance(name, str):
            message = f"{self._name} returned a figure with the name {name!r}; expected a string"
            raise TypeError(message)
        if name in self.spec.metrics:
            message = (
                f"{self._name} returned {name!r}, which is a metric of metrics_dict; update it by "
                "model.measure(y_pred, y_true), or rename the figure"
            )
            raise ValueError(message)
        self._known.add(name)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
