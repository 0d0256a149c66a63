"""Set up and run `evaluate` and `predict`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.utils.data import DataLoader, RandomSampler

from fitorch.callbacks.callback_list import on_every_process
from fitorch.callbacks.display.notebook import NotebookProgress
from fitorch.callbacks.display.progress import Progress as ProgressDisplay
from fitorch.callbacks.hooks import Hooks, attach, with_four_hooks
from fitorch.checks import check_choice, check_count, check_verbose, check_workers, plain
from fitorch.data.column_names import check_columns
from fitorch.data.dataset import SampledSource
from fitorch.data.iterators import warn_of_started_generator
from fitorch.data.rank_split import RankShard
from fitorch.data.sources import Batching, Source, as_source
from fitorch.data.validation import set_name, validation_sets
from fitorch.distributed.processes import together
from fitorch.engine.base_model import BaseModel
from fitorch.engine.choose_step import choose_evaluation_step
from fitorch.engine.custom_step.functions import check_callable
from fitorch.engine.evaluation import Evaluation, Validation
from fitorch.engine.joining import WAYS, join_outputs
from fitorch.engine.prediction import PredictionStep, run_prediction
from fitorch.environment import in_notebook
from fitorch.nets.precision import floating_dtype
from fitorch.randomness import draw_seed, peek_seed, undisturbed_randomness

from .data_setup import refuse_nan


def evaluate(
    model: BaseModel,
    val_data: Any,
    batch_size: int | None,
    steps: int | None,
    verbose: int | str,
    callbacks: Sequence[Any] | None,
    num_workers: int | str,
) -> dict[str, float]:
    """Measure loss and metrics over `val_data`; see `KerasModel.evaluate`."""
    model.stop_evaluating = False
    steps = plain(steps)
    # This places the net, so it comes before everything that looks at its device.
    spec, passes = model.validation_spec(), []
    model.val_objective.bind(model.net)  # placing the net may have replaced its parameters
    # If one process fails, the others end with its error instead of waiting for it.
    with together(model.placement.processes, "evaluate"), randomness_of(model):
        for prefix, data in validation_sets(val_data).items():
            refuse_nan(model, model.val_objective, data, set_name(prefix))
            warn_of_started_generator(data, set_name(prefix))
            source = open_source(model, data, set_name(prefix), batch_size, steps, num_workers)
            # Each set has its own hooks, because the number of steps differs.
            hooks = collect_hooks(model, callbacks, verbose, steps or source.steps)
            step = choose_evaluation_step(spec, source, prefix, lambda: model.stop_evaluating)
            passes.append(Evaluation(spec, step, source, hooks, steps, set_name(prefix)))
        validation = Validation(passes)
        try:
            return validation()
        # Worker processes end even if a batch fails.
        finally:
            validation.close()


def predict(
    model: BaseModel,
    data: Any,
    batch_size: int | None,
    steps: int | None,
    verbose: int | str,
    callbacks: Sequence[Any] | None,
    num_workers: int | str,
    gather: str,
    join: str,
) -> Any:
    """Return the net's outputs for all of `data`; see `KerasModel.predict`."""
    if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        warnings.warn(
            "the outputs of predict are in the order of the loader, which shuffles; pass one with"
            " shuffle=False to match outputs with samples",
            stacklevel=2,
        )
    check_choice("gather", gather, ("all", "main"))
    check_choice("join", join, WAYS)
    model.stop_predicting = False
    steps = plain(steps)
    with together(model.placement.processes, "predict"), randomness_of(model):
        source = open_source(model, data, "data", batch_size, steps, num_workers)
        hooks = collect_hooks(model, callbacks, verbose, steps or source.steps)
        check_callable(model)
        step = PredictionStep(
            model.measurement_spec(), lambda: model.stop_predicting, model.predict_step
        )
        outputs = run_prediction(model.net, step, source, hooks, steps, gather)
        return None if outputs is None else join_outputs(outputs, join, source.samples)


def randomness_of(model: BaseModel) -> AbstractContextManager[None]:
    """Return a context that restores the global generators if a fit of the model is running.

    A fit does not depend on what its callbacks evaluate. Without a fit, an evaluation draws its
    random numbers, such as dropout masks, from the global generators as any code of torch does.
    """
    return undisturbed_randomness() if model.run is not None else nullcontext()


def open_source(
    model: BaseModel,
    data: Any,
    name: str,
    batch_size: int | None,
    steps: int | None,
    num_workers: int | str,
) -> Source:
    """Return the user's data as a source of batches on the model's device."""
    check_columns(model.columns, data, name)
    num_workers = check_workers(num_workers)
    batch_size = check_count("batch_size", batch_size, optional=True)
    check_count("steps", steps, optional=True)
    floating = floating_dtype(model.net.parameters())
    processes = model.placement.processes
    # All processes must split the same order of the data, so they share one seed.
    seed = processes.broadcast(peek_seed())
    shard = RankShard(processes.rank, processes.world_size)
    batching = Batching(batch_size, False, seed, floating, num_workers, shard)
    source = as_source(data, name, batching)
    if isinstance(source, SampledSource):
        # Only a Dataset uses the seed, so only for one it is drawn: the next pass has another one.
        draw_seed()
    return model.placement.send(source)


def collect_hooks(
    model: BaseModel, callbacks: Sequence[Any] | None, verbose: int | str, steps: int | None
) -> Hooks:
    """Return the hooks of an evaluation or prediction, which shows no progress within a fit."""
    verbose = check_verbose(verbose)
    active = with_four_hooks(callbacks or ())
    active = active if model.is_main_process else on_every_process(active)
    if verbose != 0 and model.run is None and model.placement.processes.is_main:
        active.append(NotebookProgress() if in_notebook() else ProgressDisplay())
    attach(active, model, {"epochs": 1, "steps": steps, "verbose": verbose})
    return Hooks.collect(active)
