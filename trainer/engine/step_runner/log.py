"""Collect the values that the user's `StepRunner` returns, over a stage."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from torch import nn

from fitorch.callbacks.logs import BatchLogs
from fitorch.data.sources import Source
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.errors import NonFiniteError
from fitorch.metrics.state import load_state, state_of

from .kit import class_name


class StageLog:
    """The loss and the metrics of a stage that a step runner measures.

    Losses are means over the samples if the number of samples of a batch is known. Metrics of
    `metrics_dict` are computed over the epoch, or averaged if they are functions. Other values are
    those of the last batch.

    Args:
        stage: The prefix of all names, as "train".
        metrics: Name to metric; the runner updates them.
        spec: The net, and the class of the runner.
        source: Where the batches come from.
    """

    batches: int = 0

    def __init__(
        self, stage: str, metrics: Mapping[str, Any], spec: MeasurementSpec, source: Source
    ) -> None:
        self.net: nn.Module = spec.net
        self.source = source
        self.processes = spec.placement.processes
        self.logs = BatchLogs(f"{stage}_", self.figures)
        self.tasks: dict[str, str] = {}  # empty: a runner does not take metrics by name
        self._stage = stage
        assert spec.runner is not None
        self._runner_name = class_name(spec.runner.step_runner)
        self._metrics = {f"{stage}_{name}": metric for name, metric in metrics.items()}
        self._last: dict[str, float]
        self._computed = [name for name, m in self._metrics.items() if hasattr(m, "compute")]
        self.reset()

    def add(self, returned: object, samples: int) -> None:
        """Add what the runner returned for a batch.

        Raises:
            TypeError: It is not a pair of mappings.
            ValueError: A name does not begin with the stage, or a value is not a number.
        """
        losses, metrics = self._checked(returned)
        for name, value in (*losses.items(), *metrics.items()):
            # Functions of `metrics_dict` are averaged like losses. Metrics with `compute` are
            # computed over the epoch; what the runner returned for one batch is not used.
            if name in losses or (name in self._metrics and name not in self._computed):
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value * samples, count + samples
            elif name not in self._computed:
                self._last[name] = value

    def replace(self, returned: object) -> None:
        """Store the values that an epoch runner returned for all batches.

        Raises:
            TypeError: It is not a mapping.
            ValueError: See `add`.
        """
        if not isinstance(returned, Mapping):
            message = (
                f"EpochRunner must return a dict of floats by name; it returned {returned!r:.200}"
            )
            raise TypeError(message)
        self._last = self._numbers(returned)

    def figures(self) -> dict[str, float]:
        """Return the values so far: means, then computed metrics, then those of the last batch.

        Raises:
            NonFiniteError: The training loss is NaN or infinite.
        """
        means = {name: total / count for name, (total, count) in self._sums.items()}
        # torchmetrics warns if `compute` is called before the first update.
        updated = (n for n in self._computed if getattr(self._metrics[n], "update_called", True))
        computed = {name: float(self._metrics[name].compute()) for name in updated if self._sums}
        values = means | computed | self._last
        loss = values.get("train_loss", 0.0)
        if not isfinite(loss):
            message = f"the training loss (of {self._runner_name}) is {loss}"
            raise NonFiniteError(message)
        return values

    def result(self, where: str) -> dict[str, float]:
        """Return the values of a stage that has ended."""
        return self.figures()

    def reset(self) -> None:
        """Start a new stage."""
        self._sums: dict[str, tuple[float, int]] = {}
        self._last = {}
        for name in self._computed:
            self._metrics[name].reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the stage so far."""
        metrics = {name: state_of(self._metrics[name]) for name in self._computed}
        return {"sums": dict(self._sums), "last": dict(self._last), "metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a stage."""
        self._sums = {name: (total, count) for name, (total, count) in state["sums"].items()}
        self._last = dict(state["last"])
        for name in self._computed:
            load_state(self._metrics[name], state["metrics"][name])

    def _checked(self, returned: Any) -> tuple[dict[str, float], dict[str, float]]:
        is_pair = isinstance(returned, (tuple, list)) and len(returned) == 2
        if not is_pair or not all(isinstance(part, Mapping) for part in returned):
            message = (
                "StepRunner must return (step_losses, step_metrics), two dicts of floats by name; "
                f"it returned {returned!r:.200}"
            )
            raise TypeError(message)
        losses, metrics = returned
        return self._numbers(losses), self._numbers(metrics)

    def _numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return the values as floats, without `lr`: the history reads it from the optimizer."""
        numbers = {}
        for name, value in values.items():
            if name == "lr":
                continue
            if not str(name).startswith(f"{self._stage}_"):
                message = (
                    f"StepRunner returned {name!r} in stage {self._stage!r}; expected a name that "
                    f"begins with the stage: self.stage + '_{name}'"
                )
                raise ValueError(message)
            try:
                # A tensor of a device is read here, once per value and batch: the protocol of a
                # StepRunner asks for floats.
                numbers[name] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                message = f"StepRunner returned {name!r} as {value!r:.200}; expected a number"
                raise ValueError(message) from error
        return numbers
