"""From what a user asked for to a fit that is ready to begin, or to go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.utils.data import DataLoader

from fitorch.callbacks.callback_list import one_by_one
from fitorch.callbacks.hooks import Hooks, introduce
from fitorch.callbacks.monitor import MonitorCallback
from fitorch.checkpoint.finding import Found, find_together
from fitorch.checkpoint.run_folder import RunFolder
from fitorch.data.epochs import Feed
from fitorch.data.rank_split import Share
from fitorch.data.sources import (
    Batching,
    Source,
    as_source,
    check_enough,
    set_name,
    split_validation,
    validation_sets,
)
from fitorch.deepspeed.loss_module import LossModule
from fitorch.deepspeed.optimizer import ZeroOptimizer
from fitorch.deepspeed.update import ZeroUpdate
from fitorch.distributed.processes import Processes
from fitorch.engine.arguments import FitArguments
from fitorch.engine.checks import check_optimizer, check_trainable
from fitorch.engine.choose_step import choose_evaluation_step, choose_training_step
from fitorch.engine.coordinator import Coordinator
from fitorch.engine.evaluation import Evaluation, Validation
from fitorch.engine.placement import Placement
from fitorch.engine.run import Run
from fitorch.engine.signals import Interrupt
from fitorch.engine.state import FitState, Progress
from fitorch.engine.steps.measurement import MeasurementSpec
from fitorch.files import shown
from fitorch.nets.modes import training_modes
from fitorch.nets.precision import floating_dtype
from fitorch.optim.schedules import when_to_step
from fitorch.optim.state import align_state, move_optimizer
from fitorch.optim.update import Update
from fitorch.randomness import seed_everything
from fitorch.resume.restore import restore

from .callback_setup import check_monitors, make_callbacks, make_saving, watched_figure

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel
    from fitorch.engine.run import Run


_SCHEDULED = 1000  # epochs whose weights are looked at before training begins


def prepare(
    model: BaseModel,
    train_data: Any,
    val_data: Any,
    arguments: FitArguments,
    folder: RunFolder | None = None,
) -> Run:
    """Settle what a fit will do, and refuse what can't work.

    Raises:
        DataError: The data is empty, or not what it should be.
        ValueError: An argument does not go with the net or the data.
        TypeError: A callback is none.
    """
    loss_parameters = dict(model.objective.named_parameters(model.net))
    optimizer = check_trainable(model.net, model.optimizer, loss_parameters)
    check_optimizer(optimizer, model.net, loss_parameters)
    first, last = _span(model.progress.epochs, arguments)
    _check_objective(model, range(first, last))
    source, validation_sources = _sources(model, train_data, val_data, arguments)
    sets = list(validation_sources)
    figures = model.figure_names(sets, train_metrics=arguments.train_metrics)
    figures = _awaited(model, figures, arguments)
    monitor, mode = watched_figure(model, arguments, figures, sets)
    interrupt, saving = Interrupt(model, saves=folder is not None), make_saving(folder, arguments)
    callbacks = make_callbacks(model, arguments, monitor, mode, interrupt, saving)
    coordinator = Coordinator(model.placement.processes, model, interrupt, callbacks)
    check_monitors(callbacks, model, figures, sets)
    hooks = Hooks.collect(callbacks)

    placement = model.placement
    if placement.zero is None:
        move_optimizer(optimizer)
        align_state(optimizer)
    spec = model.measurement_spec()
    feed = Feed(
        source.to(placement.device),
        arguments.steps_per_epoch,
        pass_index=first,
        processes=placement.processes,
    )
    validation = _validation(
        spec,
        validation_sources,
        hooks,
        lambda: interrupt.requested or model.stop_evaluating,
        arguments,
    )
    update = _update(model, optimizer, placement, arguments)
    model.progress = Progress(arguments.seed, first, updates=update.completed)
    model.history.begin(monitor, mode, arguments.seed, sets=sets)
    params = {
        "epochs": last,
        "steps": feed.steps,
        "validation_steps": _validation_steps(validation_sources, arguments),
        "verbose": arguments.verbose,
        "batch_size": _batch_size(train_data, arguments),
    }
    introduce(callbacks, model, params)
    seed_everything(placement.processes.own_seed(arguments.seed, "model", first))
    step = choose_training_step(model, spec, feed.source, update, arguments, coordinator)
    return Run(
        model=model,
        state=FitState(
            model.progress, model.net, model.objective, update, model.history, callbacks, feed, step
        ),
        step=step,
        hooks=hooks,
        interrupt=interrupt,
        modes=training_modes(model.net),
        arguments=arguments,
        last_epoch=last,
        monitor=monitor,
        validation=validation,
        coordinator=coordinator,
        saving=saving,
    )


def _awaited(model: BaseModel, figures: list[str], arguments: FitArguments) -> list[str]:
    """Return `figures`, and all that is monitored where a step runner decides what is measured.

    A figure that it does not return is refused after the first epoch, by who looks for it.
    """
    if model.StepRunner is None:
        return figures
    watching = [c for c in one_by_one(arguments.callbacks) if isinstance(c, MonitorCallback)]
    monitors = [arguments.monitor, *(callback.monitor for callback in watching)]
    stages = {name.partition("_")[0] for name in figures} & {"train", "val"}
    found = [name for name in monitors if name.partition("_")[0] in stages]
    return list(dict.fromkeys([*figures, *found]))


def _batch_size(train_data: Any, arguments: FitArguments) -> int | None:
    """Return the samples in a batch, None where a loader does not tell."""
    loader = isinstance(train_data, DataLoader)
    size: int | None = train_data.batch_size if loader else arguments.batch_size
    return size


def _check_objective(model: BaseModel, epochs: range) -> None:
    """Refuse penalties on nothing, and weights that are no numbers."""
    model.objective.bind(model.net, strictly=True)
    for term in model.objective.module.terms:
        for epoch in epochs[:_SCHEDULED] if term.schedules else ():
            term.weight(epoch)


def _span(completed: int, arguments: FitArguments) -> tuple[int, int]:
    """Return the epochs that are completed before and after the fit."""
    if arguments.initial_epoch is None:
        return completed, completed + arguments.epochs
    if arguments.initial_epoch >= arguments.epochs:
        message = (
            f"initial_epoch={arguments.initial_epoch} leaves nothing to train up to "
            f"epochs={arguments.epochs}; epochs is the number of the last epoch"
        )
        raise ValueError(message)
    return arguments.initial_epoch, arguments.epochs


def _sources(
    model: BaseModel, train_data: Any, val_data: Any, arguments: FitArguments
) -> tuple[Source, dict[str, Source]]:
    """Return where training batches come from, and for each validation set, by its prefix."""
    floating, processes = floating_dtype(model.net.parameters()), model.placement.processes
    if val_data is None and arguments.validation_split:
        train_data, val_data = split_validation(train_data, arguments.validation_split, floating)
    batching = Batching(
        arguments.batch_size,
        arguments.shuffle,
        arguments.seed,
        floating,
        arguments.num_workers,
        Share(processes.rank, processes.count),
    )
    source = as_source(train_data, "train_data", batching)
    in_order = replace(batching, shuffle=False)
    validation = {
        prefix: as_source(data, set_name(prefix), in_order)
        for prefix, data in validation_sets(val_data).items()
    }
    lengths = {"train_data": (source.samples, source.steps)}
    lengths |= {set_name(name): (s.samples, s.steps) for name, s in validation.items()}
    model.placement.processes.check_alike(lengths)
    check_enough(source, "train_data", model.placement.processes.count)
    return source, validation


def _validation(
    spec: MeasurementSpec,
    sources: dict[str, Source],
    hooks: Hooks,
    stopped: Callable[[], bool],
    arguments: FitArguments,
) -> Validation | None:
    passes = []
    for prefix, source in sources.items():
        placed = source.to(spec.placement.device)
        step = choose_evaluation_step(spec, placed, prefix, stopped)
        steps, name = arguments.validation_steps, set_name(prefix)
        passes.append(Evaluation(spec, step, placed, hooks, steps, name))
    return Validation(passes) if passes else None


def _validation_steps(sources: dict[str, Source], arguments: FitArguments) -> int | None:
    """Return the batches of a validation, None where that is not known, or one of several."""
    if arguments.validation_steps is not None or len(sources) != 1:
        return arguments.validation_steps
    return next(iter(sources.values())).steps


def _update(
    model: BaseModel, optimizer: Optimizer, placement: Placement, arguments: FitArguments
) -> Update:
    settings = (
        placement.scaler,
        arguments.clip_grad_norm,
        arguments.clip_grad_value,
        model.lr_scheduler,
        when_to_step(model.lr_scheduler, arguments.scheduler_step),
        model.objective.penalties,
    )
    if placement.zero is None:
        update = Update(optimizer, *settings)
    else:
        placement.zero.check_optimizer(optimizer)
        module = LossModule(model.net, model.objective.module)
        window = arguments.gradient_accumulation_steps
        wishes = arguments.clip_grad_norm, arguments.clip_grad_value, window
        clip = placement.zero.clipping(*wishes)
        spread = ZeroOptimizer(placement.zero, optimizer, module, clip)
        update = ZeroUpdate(spread, *settings)
    update.completed = model.progress.updates
    return update


def run_folder(
    arguments: FitArguments, processes: Processes
) -> AbstractContextManager[RunFolder | None]:
    """Return the folder that a fit writes into, where it was given one."""
    if arguments.folder is None:
        return nullcontext()
    if not processes.main:
        return nullcontext(RunFolder(arguments.folder, arguments.keep))  # the main one writes
    backup = arguments.backup
    temporary = backup is not None and backup.delete_checkpoint
    return RunFolder(arguments.folder, arguments.keep, temporary=temporary)


def begin(
    model: BaseModel,
    train_data: Any,
    val_data: Any,
    arguments: FitArguments,
    folder: RunFolder | None,
) -> Run:
    """Return a fit that is ready to begin, or to go on where a checkpoint stands.

    Raises:
        CheckpointError: The checkpoint can't be used, or a state can't be stored.
        ValueError, TypeError: See `prepare`.
    """
    processes = model.placement.processes
    found = find_together(arguments.resume or arguments.backup is not None, folder, processes)
    if found is not None:
        drawn = arguments.seed if arguments.seeded else int(found.info["seed"])
        arguments = replace(arguments, initial_epoch=0, seed=drawn, resume=False)
    progress = model.progress
    try:
        run = prepare(model, train_data, val_data, arguments, folder)
        if run.saving is not None:
            run.saving.try_encoding()
        if found is not None:
            restore(run, found)
        processes.gather(None)  # all have read it, and the others may be moved away
    except BaseException:
        model.progress, model.run = progress, None
        raise
    if folder is not None and processes.main:
        _make_way(folder, run, found)
        folder.notes += [] if found is None else [_story(run, found)]
    return run


def _story(run: Run, found: Found) -> str:
    """Say what a fit goes on with."""
    done, batch, path = found.info["epoch"], found.info["batch"], shown(found.checkpoint.path)
    if run.done:
        stopped = found.info.get("stopped")
        why = f", stopped since {stopped}" if stopped else ""
        return f"{path} is complete, with {done} epochs{why}; a larger epochs= goes on"
    return f"going on from {path}: epoch {done + 1}" + (f" after batch {batch}" if batch else "")


def _make_way(folder: RunFolder, run: Run, found: Found | None) -> None:
    """Move out of the way what an earlier run left, where this one does not go on with it."""
    own = folder.store.folder.resolve()
    if found is not None and found.checkpoint.path.parent.resolve() == own:
        if run.saving is not None:
            run.saving.resumed_from = folder.store.folder / found.checkpoint.path.name
        newer = [c for c in folder.store.list() if c.order > found.checkpoint.order]
        folder.set_checkpoints_aside(newer)
    elif found is not None or folder.run_id() != run.model.run_id:
        folder.set_aside()
