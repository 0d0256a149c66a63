"""Rehearsal before the first epoch: what would fail at its end fails now, and leaves no trace."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from torch.nn.parameter import is_lazy

from fitorch.callbacks.best_weights import BestWeights
from fitorch.callbacks.callback_list import flatten_callbacks
from fitorch.checkpoint.weights import check_storable
from fitorch.data.epochs import reading
from fitorch.data.sources import Source
from fitorch.distributed.fsdp import is_sharded
from fitorch.engine.diagnostics import explain
from fitorch.engine.evaluation import Evaluation
from fitorch.engine.inference import GradientsOnDemand, inference
from fitorch.engine.run import Run
from fitorch.engine.steps.evaluation import EvaluationStep
from fitorch.engine.steps.measurement import Measurement
from fitorch.errors import annotate
from fitorch.metrics.batching import MetricError, ResultError
from fitorch.nets.state import buffers_restored, plain_state
from fitorch.randomness import undisturbed_randomness

from .schedule_checks import check_schedules


def rehearse(run: Run) -> None:
    """Check what a fit uses only after its first epoch: schedule, weights, validation, metrics.

    A validation batch goes once through the net in eval mode, its loss and metrics. Modes, buffers,
    random generators and the order of the data are restored. Data that can be read only once, or
    that worker processes read, is not looked at, and neither is a net with lazy or sharded
    parameters. `CheckpointSaver.try_encoding` rehearses the writer of checkpoints.

    Raises:
        ValueError: The schedule does not fit the length of the fit, or takes other arguments.
        TypeError: The net has a state that the file of the best weights cannot store.
        MetricError: A metric fails on the batch, or its result is not a number.
        Exception: Any error of the net, the loss or `forward=` in validation.
    """
    if run.done:
        return
    check_schedules(run)
    callbacks = flatten_callbacks(run.state.callbacks)
    if any(isinstance(each, BestWeights) and each.folder is not None for each in callbacks):
        check_storable(plain_state(run.net))  # what the best epoch writes
    parameters = list(run.net.parameters())
    if run.validation is None or any(map(is_lazy, parameters)) or is_sharded(run.net):
        return
    for evaluation in run.validation.passes:
        _rehearse_validation(evaluation)


def _rehearse_validation(evaluation: Evaluation) -> None:
    planned = evaluation.step.measurement
    if not isinstance(planned, Measurement):  # a user's StepRunner measures in its own way
        return
    modules = planned.net, planned.objective.module
    with undisturbed_randomness(), inference(*modules):
        batch = _first_batch(planned.source, evaluation.name)
        if batch is None:
            return
        # A measurement of its own, so that the sums of the fit begin empty.
        measurement = Measurement(planned.spec, planned.source, planned.prefix)
        step = GradientsOnDemand(EvaluationStep(measurement, lambda: False))
        with buffers_restored(*modules):
            try:
                step(batch)
            except Exception as error:
                explain(error, planned.net, evaluation.step, batch, _place(evaluation))
                raise
            _compute(measurement, evaluation)


def _first_batch(source: Source, name: str) -> Any:
    batches = (read() for read in [source.first_batch])
    return next(reading(batches, name, "", partial(source.samples_in, 0)))


def _compute(measurement: Measurement, evaluation: Evaluation) -> None:
    """Compute all values; a metric that needs more samples than a batch has only warns."""
    try:
        # A class may be missing from one batch, of which a library would warn.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measurement.figures()
    except ResultError as error:
        annotate(error, f"in {_place(evaluation)}")
        raise
    except MetricError as error:
        warnings.warn(
            f"in {_place(evaluation)}: {error}; unless more samples help, this "
            "will end the fit after its first epoch",
            stacklevel=2,
        )


def _place(evaluation: Evaluation) -> str:
    return f"{evaluation.name} batch 1 (before training)"
