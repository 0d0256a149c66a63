"""Validation and prediction: passes over data that train nothing and disturb nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.callbacks.hooks import Hooks, emit, emit_all

from .data import Source
from .errors import DataError
from .forward import choose_call, features_of
from .lockstep import in_lockstep
from .modes import modes_restored
from .processes import Processes
from .randomness import derive_seed, seed_everything, undisturbed_randomness
from .reading import reading
from .sharding import let_go
from .stage import run_stage
from .steps import EvaluationStep, Measures
from .structure import join, map_tensors


class Evaluation:
    """A pass over validation data.

    Args:
        net: The net, on its device.
        step: Measures a batch.
        source: Where batches come from.
        hooks: Who is told.
        steps: Batches to take, or None for all.
        name: What to call the data in a message.
    """

    def __init__(
        self,
        net: nn.Module,
        step: EvaluationStep,
        source: Source,
        hooks: Hooks,
        steps: int | None = None,
        name: str = "val_data",
    ) -> None:
        self._net = net
        self._step = step
        self._source = source
        self._hooks = hooks
        self._steps = steps
        self._name = name

    @property
    def metric_tasks(self) -> dict[str, str]:
        """What metrics given by name turned out to measure, once they have seen a batch."""
        return self._step.metrics.tasks

    def __call__(self, where: str = "") -> dict[str, float]:
        """Return the figures of a pass.

        Args:
            where: What to put before "validation batch 3" in a message.

        Raises:
            DataError: The data gave no batch.
        """
        hooks, figures = self._hooks, {}
        try:
            emit(hooks.on_test_begin, {})
            figures = self._measure(where)
        finally:
            emit_all(hooks.on_test_end, figures)
        return figures

    def close(self) -> None:
        """End worker processes that read the data."""
        self._source.close()

    def _measure(self, where: str) -> dict[str, float]:
        hooks, step, processes = self._hooks, self._step, self._step.processes
        step.reset()
        step.measure_penalties()
        processes.spread(self._net, parameters=False)  # in training each has buffers of its own
        with inference(self._net, step.objective.module):
            taken = islice(opened(self._source, processes), self._steps)
            samples_in = partial(self._source.samples_in, 0)
            batches = reading(taken, self._name, where, samples_in)
            begin, end = hooks.on_test_batch_begin, hooks.on_test_batch_end
            kind = "validation" if self._name == "val_data" else self._name
            batches = step.arranged(batches, self._steps or self._source.steps)
            taken_by, batches = in_lockstep(self._net, step, batches)
            place = f"{where}{kind} batch"
            step.batches = run_stage(self._net, taken_by, batches, begin, end, place)
        figures = step.result(f"{where}{kind}")
        if not step.batches and not step.done:
            message = (
                f"{self._name} is empty: the validation data gave no batch; a generator gives its "
                "batches once: pass a DataLoader, (x, y), or an object with __iter__"
            )
            raise DataError(message)
        return figures


class Validation:
    """A pass over each set of validation data, one after the other.

    Args:
        passes: The passes.
    """

    def __init__(self, passes: list[Evaluation]) -> None:
        self._passes = passes

    @property
    def metric_tasks(self) -> dict[str, str]:
        """What metrics given by name turned out to measure, once they have seen a batch."""
        tasks: dict[str, str] = {}
        for each in self._passes:
            tasks |= each.metric_tasks
        return tasks

    def close(self) -> None:
        """End worker processes that read the data."""
        for each in self._passes:
            each.close()

    def __call__(self, where: str = "") -> dict[str, float]:
        """Return the figures of all sets; where Ctrl-C ended one, of those up to it."""
        figures: dict[str, float] = {}
        for each in self._passes:
            figures |= each(where)
        return figures


class PredictionStep:
    """The net's output for a batch, kept on the CPU.

    Args:
        measures: The net, its precision, and the user's `forward(net, batch)`.
        stopped: Says whether to end early.
    """

    logs: Any = None

    def __init__(self, measures: Measures, stopped: Callable[[], bool]) -> None:
        net, cast, hook = measures.net, measures.placement.cast, measures.forward
        self.processes = measures.placement.processes
        self._call = cast(net) if hook is None else partial(cast(hook), net)
        self._hooked = hook is not None
        self.outputs: list[Any] = []
        self._stopped = stopped

    def __call__(self, batch: Any) -> None:
        """Predict a batch."""
        self.outputs.append(map_tensors(Tensor.cpu, self._output(batch)))

    @property
    def done(self) -> bool:
        """Whether to end before the batches do."""
        return self._stopped()

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch in what the step takes, for messages."""
        return batch

    def run_only(self, batch: Any) -> None:
        """Run the net, and keep nothing."""
        self._output(batch)

    def _output(self, batch: Any) -> Any:
        if self._hooked:
            return self._call(batch)[0]
        features = features_of(batch)
        return choose_call(self._call, features)(features)


def predict(
    net: nn.Module,
    step: PredictionStep,
    source: Source,
    hooks: Hooks,
    steps: int | None,
    gather: str = "all",
) -> Any:
    """Return the net's outputs over all batches, joined along dimension 0.

    Of several processes, each returns those of all; or the main one alone, where `gather` is
    "main", and the others None.

    Raises:
        DataError: There was no batch, or the outputs' shapes differ.
    """
    try:
        step.processes.spread(net, parameters=False)
        emit(hooks.on_predict_begin, {})
        with inference(net):
            taken = islice(opened(source, step.processes), steps)
            batches = reading(taken, "data", "", partial(source.samples_in, 0))
            begin, end = hooks.on_predict_batch_begin, hooks.on_predict_batch_end
            taken_by, batches = in_lockstep(net, step, batches)
            run_stage(net, taken_by, batches, begin, end, "prediction batch")
    finally:
        source.close()
        emit_all(hooks.on_predict_end, {})
    outputs = in_order(step.outputs, step.processes, gather)
    if outputs is None:
        return None
    if not outputs:
        message = "data is empty: it gave no batch to predict"
        raise DataError(message)
    try:
        return join(torch.cat, outputs)
    except RuntimeError as error:
        message = f"the outputs of the batches can't be joined along dimension 0: {error}"
        raise DataError(message) from error


def opened(source: Source, processes: Processes) -> Iterator[Any]:
    """Begin a pass, in an order that is the same in every process."""
    if processes.several and source.order_owners:  # else the order is ours, which draws nothing
        seed_everything(derive_seed(0, "evaluation"))
    return (batch for batch in source.batches(0) if batch is not None)


def in_order(outputs: list[Any], processes: Processes, gather: str) -> list[Any] | None:
    """Return the outputs of all processes in the order of the batches, None where nobody asked.

    Args:
        outputs: Those of this process.
        processes: Who predicted.
        gather: "all", or "main" for the main process alone, which gets them round by round.
    """
    if not processes.several:
        return outputs
    joined: list[Any] = []
    rounds = max(processes.gather(len(outputs)))
    for number in range(rounds):
        own = outputs[number] if number < len(outputs) else None
        if gather == "main":
            parts = processes.gather_to_main(own)
            if number < len(outputs):
                outputs[number] = None
        else:
            parts = processes.gather(own)
        joined += [part for part in parts or () if part is not None]
    return joined if gather == "all" or processes.main else None


@contextmanager
def inference(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode and without gradients; disturb neither modes nor random streams."""
    with undisturbed_randomness(), modes_restored(*modules), torch.no_grad():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module in modules:
                let_go(module)
