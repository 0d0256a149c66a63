"""Prediction: the net's outputs for all batches, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence

from fitorch.callbacks.hooks import Hooks, emit, emit_all
from fitorch.data.epochs import opened, reading
from fitorch.data.sources import Source
from fitorch.distributed.processes import Processes
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.errors import DataError, annotate
from fitorch.internals.torch import original_module
from fitorch.nets.calls import Call, choose_call
from fitorch.nets.forward import choose_forward, features_of
from fitorch.tree import rebuild_mapping

from .diagnostics import module_of
from .inference import GradientsOnDemand, inference
from .joining import BatchOutput, counted, targets_of
from .lockstep import in_lockstep
from .output_buffer import OutputBuffer, OutputLogs
from .stage import run_stage


class PredictionStep:
    """Computes the net's output for a batch, and keeps a copy of it.

    Args:
        spec: The net, its precision, and the user's `forward(net, batch)`.
        stopped: Returns whether the stage should end early.
        function: The user's `predict_step(batch)`, or None.

    Attributes:
        logs: Keras' logs of the hooks: the last output as "outputs".
    """

    def __init__(
        self,
        spec: MeasurementSpec,
        stopped: Callable[[], bool],
        function: Callable[[Any], Any] | None = None,
    ) -> None:
        net, cast = spec.net, spec.placement.cast
        self.processes = spec.placement.processes
        self.logs = OutputLogs()
        self._kept = OutputBuffer()
        self._net, self._cast_net = net, cast(net)
        self._function = None if function is None else cast(function)
        self._hooked = None
        if spec.forward is not None:
            self._hooked = choose_forward(net, None, cast, spec.forward)
        self._call: Call | None = None
        self._all_features = False  # whether a sequence of any length is a batch of features
        config = getattr(original_module(net) or net, "config", None)
        self._left_out = getattr(config, "keys_to_ignore_at_inference", None) or ()
        self._stopped = stopped

    def __call__(self, batch: Any) -> None:
        """Predict a batch."""
        output = self._output(batch)
        if self._left_out and isinstance(output, Mapping):
            kept = {name: part for name, part in output.items() if name not in self._left_out}
            output = rebuild_mapping(output, kept)
        whole = self._call is self._cast_net
        output = self._kept.keep(counted(output, batch, self._features(batch), whole=whole))
        self.logs.set(output)

    @property
    def outputs(self) -> list[BatchOutput]:
        """The outputs of the batches so far, on the CPU; this waits for the device."""
        return self._kept.all()

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
        if self._function is not None:
            return self._function(batch)
        if self._hooked is not None:
            return self._hooked_output(batch)
        if self._call is None:
            self._all_features = _is_list_of_samples(batch)
            features = self._features(batch)
            self._call = choose_call(self._cast_net, features, self._net, targets_of(batch))
        return self._call(self._features(batch))

    def _hooked_output(self, batch: Any) -> Any:
        assert self._hooked is not None
        try:
            return self._hooked(batch)[0]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            if not _has_targets(batch) and not module_of(error, self._net):
                annotate(
                    error,
                    "forward= may read targets, which the data of predict does not have; pass "
                    "predict((x, y)), or return (predictions, None) for a batch without targets",
                )
            raise

    def _features(self, batch: Any) -> Any:
        return batch if self._all_features else features_of(batch)


def run_prediction(
    net: nn.Module,
    step: PredictionStep,
    source: Source,
    hooks: Hooks,
    steps: int | None,
    gather: str = "all",
) -> list[BatchOutput] | None:
    """Return the net's outputs for all batches, in the order of the data.

    With several processes each returns the outputs of all of them. If `gather` is "main", only the
    main process does, and the others return None.

    Raises:
        DataError: There was no batch.
    """
    try:
        # Training updates buffers in each process by its own batches; all must predict alike.
        step.processes.broadcast_module(net, parameters=False)
        emit(hooks.on_predict_begin, {})
        with inference(net):
            taken = opened(source, step.processes, steps)
            batches = reading(taken, "data", "", partial(source.samples_in, 0))
            begin, end = hooks.on_predict_batch_begin, hooks.on_predict_batch_end
            lockstep, batches = in_lockstep(net, step, batches)
            run_stage(net, GradientsOnDemand(lockstep), batches, begin, end, "prediction batch")
    # Workers that read data end even if a batch fails, and each on_predict_begin has its end.
    finally:
        source.close()
        emit_all(hooks.on_predict_end, {})
    outputs = in_order(step.outputs, step.processes, gather)
    if outputs is not None and not outputs:
        message = "data is empty: it gave no batch to predict"
        raise DataError(message)
    return outputs


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


def _is_list_of_samples(batch: Any) -> bool:
    """Return whether a batch is a list of texts or other samples, without targets."""
    if not isinstance(batch, (tuple, list)) or isinstance(batch, PackedSequence):
        return False
    return len(batch) > 3 or all(isinstance(sample, str) for sample in batch)


def _has_targets(batch: Any) -> bool:
    if isinstance(batch, Mapping):
        return "labels" in batch
    return isinstance(batch, (tuple, list)) and len(batch) in (2, 3)
