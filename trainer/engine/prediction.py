"""Prediction: the net's outputs for all batches, in the order of the data."""

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
from fitorch.distributed.fsdp import release_gathered
from fitorch.distributed.processes import Processes
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.errors import DataError
from fitorch.nets.calls import Call, choose_call
from fitorch.nets.forward import features_of
from fitorch.nets.modes import modes_restored
from fitorch.randomness import undisturbed_randomness
from fitorch.tree import join, map_tensors

from .lockstep import in_lockstep
from .stage import run_stage


class PredictionStep:
    """Computes the net's output for a batch, and keeps it on the CPU.

    Args:
        spec: The net, its precision, and the user's `forward(net, batch)`.
        stopped: Returns whether the stage should end early.
    """

    logs = None

    def __init__(self, spec: MeasurementSpec, stopped: Callable[[], bool]) -> None:
        net, cast, hook = spec.net, spec.placement.cast, spec.forward
        self.processes = spec.placement.processes
        self._call = cast(net) if hook is None else partial(cast(hook), net)
        self._net = net
        self._call_features: Call | None = None
        self._hooked = hook is not None
        self.outputs: list[Any] = []
        self._stopped = stopped

    def __call__(self, batch: Any) -> None:
        """Predict a batch."""
        # Each copy waits for the device. In exchange, the device holds the output of one batch
        # only.
        self.outputs.append(map_tensors(Tensor.cpu, self._output(batch)))

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        return self._stopped()

    def user_batch(self, batch: Any) -> Any:
        """Return the user's batch out of what the step takes, for messages."""
        return batch

    def run_only(self, batch: Any) -> None:
        """Run the net on a batch without keeping the output."""
        self._output(batch)

    def _output(self, batch: Any) -> Any:
        if self._hooked:
            # The user's forward returns (predictions, targets).
            return self._call(batch)[0]
        features = features_of(batch)
        if self._call_features is None:
            self._call_features = choose_call(self._call, features, self._net)
        return self._call_features(features)


def run_prediction(
    net: nn.Module,
    step: PredictionStep,
    source: Source,
    hooks: Hooks,
    steps: int | None,
    gather: str = "all",
) -> Any:
    """Return the net's outputs for all batches, concatenated along dimension 0.

    With several processes each returns the outputs of all of them. If `gather` is "main", only the
    main process does, and the others return None.

    Raises:
        DataError: There was no batch, or the shapes of the outputs differ.
    """
    try:
        # Training updates buffers in each process by its own batches; all must predict alike.
        step.processes.broadcast_module(net, parameters=False)
        emit(hooks.on_predict_begin, {})
        with inference(net):
            taken = islice(opened(source, step.processes), steps)
            batches = reading(taken, "data", "", partial(source.samples_in, 0))
            begin, end = hooks.on_predict_batch_begin, hooks.on_predict_batch_end
            lockstep, batches = in_lockstep(net, step, batches)
            run_stage(net, lockstep, batches, begin, end, "prediction batch")
    # Workers that read data end even if a batch fails, and each on_predict_begin has its end.
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
        message = f"the outputs of the batches cannot be joined along dimension 0: {error}"
        raise DataError(message) from error


def in_order(outputs: list[Any], processes: Processes, gather: str) -> list[Any] | None:
    """Return the outputs of all processes in the order of the batches.

    Args:
        outputs: The outputs of this process, batch by batch.
        processes: The processes that predict together.
        gather: "all", or "main" for the main process only; the others return None.
    """
    if not processes.is_distributed:
        return outputs
    all_outputs: list[Any] = []
    # All processes take part in each round, also those that have fewer batches.
    # Each gather is a collective, in which the processes wait for each other.
    rounds = max(processes.gather(len(outputs)))
    for number in range(rounds):
        output = outputs[number] if number < len(outputs) else None
        if gather == "main":
            parts = processes.gather_to_main(output)
            if number < len(outputs):
                outputs[number] = None  # frees the memory of this process
        else:
            parts = processes.gather(output)
        all_outputs += [part for part in parts or () if part is not None]
    return all_outputs if gather == "all" or processes.is_main else None


@contextmanager
def inference(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode and without gradients; restore modes and random generators."""
    with undisturbed_randomness(), modes_restored(*modules), torch.no_grad():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module in modules:
                # FSDP2 frees gathered weights in the backward pass, which inference does not have.
                release_gathered(module)
