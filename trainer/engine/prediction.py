"""Prediction: a pass over data whose outputs are kept, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.callbacks.hooks import Hooks, emit, emit_all
from fitorch.data.epochs import opened, reading
from fitorch.data.sources import Source
from fitorch.distributed.fsdp import let_go
from fitorch.distributed.processes import Processes
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.errors import DataError
from fitorch.nets.forward import choose_call, features_of
from fitorch.nets.modes import modes_restored
from fitorch.randomness import undisturbed_randomness
from fitorch.tree import join, map_tensors

from .lockstep import in_lockstep
from .stage import run_stage


class PredictionStep:
    """The net's output for a batch, kept on the CPU.

    Args:
        spec: The net, its precision, and the user's `forward(net, batch)`.
        stopped: Says whether to end early.
    """

    logs: Any = None

    def __init__(self, spec: MeasurementSpec, stopped: Callable[[], bool]) -> None:
        net, cast, hook = spec.net, spec.placement.cast, spec.forward
        self.processes = spec.placement.processes
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


def run_prediction(
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
        step.processes.broadcast_module(net, parameters=False)
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


def in_order(outputs: list[Any], processes: Processes, gather: str) -> list[Any] | None:
    """Return the outputs of all processes in the order of the batches, None where nobody asked.

    Args:
        outputs: Those of this process.
        processes: Who predicted.
        gather: "all", or "main" for the main process alone, which gets them round by round.
    """
    if not processes.is_distributed:
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
    return joined if gather == "all" or processes.is_main else None


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
