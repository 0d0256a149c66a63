"""Prepare a fit: data, callbacks, optimizer, step and state, from its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from fitorch.callbacks.hooks import attach
from fitorch.checkpoint.run_folder import RunFolder
from fitorch.data.epochs import EpochIterator
from fitorch.data.iterators import warn_of_iterator
from fitorch.data.validation import set_name
from fitorch.deepspeed.loss_module import LossModule
from fitorch.deepspeed.optimizer import ZeroOptimizer
from fitorch.deepspeed.update import ZeroUpdate
from fitorch.engine.arguments import FitArguments
from fitorch.engine.choose_step import choose_evaluation_step, choose_training_step
from fitorch.engine.evaluation import Evaluation, Validation
from fitorch.engine.extra_state import extra_parts
from fitorch.engine.run import Run
from fitorch.engine.state import FitState, Progress
from fitorch.nets.modes import TrainingModes
from fitorch.optim.checks import check_optimizer, check_trainable
from fitorch.optim.closure_update import ClosureUpdate
from fitorch.optim.closures import needs_closure
from fitorch.optim.optimizers import settle_fused
from fitorch.optim.schedulers import make_scheduler
from fitorch.optim.several import Optimizers, name_of
from fitorch.optim.state import align_state, move_optimizer
from fitorch.optim.update import Update
from fitorch.randomness import seed_everything

from .callback_setup import FitCallbacks, set_up_callbacks
from .data_setup import FitData, open_data

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_CHECKED_EPOCHS = 1000  # whose scheduled weights are computed before training


def prepare(
    model: BaseModel,
    train_data: Any,
    val_data: Any,
    arguments: FitArguments,
    folder: RunFolder | None = None,
) -> Run:
    """Return a fit that is ready to run, after all checks that need no batch.

    Raises:
        DataError: The data is empty or of no known form.
        ValueError: An argument does not fit the net or the data.
        TypeError: An object is not a callback.
    """
    # What the arguments alone decide is checked before the data is opened, which may take long.
    optimizer = _checked_optimizer(model)
    epochs = _planned_epochs(model, arguments)
    _check_objective(model, epochs)
    data = open_data(model, train_data, val_data, arguments)
    callbacks = set_up_callbacks(model, arguments, list(data.validation), folder)
    # The net lies on its device by now; the optimizer's state follows it.
    _place_optimizer(model, optimizer)
    spec = model.measurement_spec()
    iterator = _training_batches(model, data, arguments, epochs.start)
    validation = _validation(model, data, callbacks, arguments)
    update = _update(model, optimizer, arguments)
    # The progress is set before `attach`: callbacks read it from the model.
    model.progress = Progress(arguments.seed, epochs.start, updates=update.completed)
    model.history.begin(
        callbacks.monitor, callbacks.mode, arguments.seed, sets=list(data.validation)
    )
    attach(callbacks.every, model, _params(data, iterator, arguments, epochs))
    # Callbacks may have drawn from the global generators; the net's random numbers, and those of
    # metrics and losses from here on, follow from the seed alone.
    seed_everything(model.placement.processes.rank_seed(arguments.seed, "model", epochs.start))
    # The step is made after the seed: metrics and losses may draw numbers.
    step = choose_training_step(
        model, spec, iterator.source, update, arguments, callbacks.coordinator
    )
    return Run(
        model=model,
        state=FitState(
            model.progress,
            model.net,
            model.objective,
            update,
            model.history,
            callbacks.every,
            iterator,
            step,
            model.placement.device,
            extra_parts(model),
        ),
        step=step,
        hooks=callbacks.hooks,
        shutdown=callbacks.shutdown,
        # The modes are recorded before callbacks change those of modules.
        modes=TrainingModes(model.net),
        arguments=arguments,
        last_epoch=epochs.stop,
        monitor=callbacks.monitor,
        validation=validation,
        coordinator=callbacks.coordinator,
    )


def _checked_optimizer(model: BaseModel) -> Optimizer:
    """Return the optimizer, if it trains the net or the loss."""
    loss_parameters = dict(model.objective.named_parameters(model.net))
    optimizer = check_trainable(model.net, model.optimizer, loss_parameters)
    check_optimizer(optimizer, model.net, loss_parameters)
    make_scheduler(model.lr_scheduler, optimizer)  # checks that it is a schedule of this optimizer
    return optimizer


def _place_optimizer(model: BaseModel, optimizer: Optimizer) -> None:
    """Move the optimizer's state to where its parameters are; DeepSpeed places it itself."""
    settle_fused(optimizer)
    if model.placement.zero is None:
        move_optimizer(optimizer)
        # This follows the move, which does not keep the memory format.
        align_state(optimizer)


def _training_batches(
    model: BaseModel, data: FitData, arguments: FitArguments, first_pass: int
) -> EpochIterator:
    placement = model.placement
    return EpochIterator(
        placement.send(data.train),
        arguments.steps_per_epoch,
        pass_index=first_pass,
        processes=placement.processes,
    )


def _params(
    data: FitData, iterator: EpochIterator, arguments: FitArguments, epochs: range
) -> dict[str, Any]:
    """Return what callbacks receive as `params`, with Keras' names."""
    return {
        "epochs": epochs.stop,
        "steps": iterator.steps,
        "validation_steps": data.validation_steps(arguments),
        "verbose": arguments.verbose,
        "batch_size": data.batch_size,
    }


def _check_objective(model: BaseModel, epochs: range) -> None:
    """Check that penalties match parameters, and that scheduled weights are numbers."""
    for objective in model.objectives:
        objective.bind(model.net, strictly=True)
    # The whole schedule is evaluated now, so that an error in a late epoch surfaces before the
    # first batch.
    for term in (term for objective in model.objectives for term in objective.module.terms):
        for epoch in epochs[:_CHECKED_EPOCHS] if term.schedules else ():
            term.weight(epoch)


def _planned_epochs(model: BaseModel, arguments: FitArguments) -> range:
    """Return the epochs that the fit trains, counted from 0 over all fits of the model."""
    completed, first = model.progress.epochs, arguments.initial_epoch
    if first is None:
        return range(completed, completed + arguments.epochs)
    if first >= arguments.epochs:
        message = (
            f"initial_epoch={first} leaves nothing to train up to "
            f"epochs={arguments.epochs}; epochs is the number of the last epoch"
        )
        raise ValueError(message)
    return range(first, arguments.epochs)


def _validation(
    model: BaseModel,
    data: FitData,
    callbacks: FitCallbacks,
    arguments: FitArguments,
) -> Validation | None:
    """Return the passes over the validation sets, None if there are none."""

    def stopped() -> bool:
        # Validation changes nothing, so a signal ends it at once; a resumed fit repeats it.
        return callbacks.shutdown.signals.requested or model.stop_evaluating

    spec, passes = model.validation_spec(), []
    for prefix, source in data.validation.items():
        placed = spec.placement.send(source)
        step = choose_evaluation_step(spec, placed, prefix, stopped)
        steps, name = arguments.validation_steps, set_name(prefix)
        if steps is not None and arguments.epochs > 1:
            warn_of_iterator(getattr(source, "loader", None), name)
        passes.append(Evaluation(spec, step, placed, callbacks.hooks, steps, name))
    return Validation(passes) if passes else None


def _update(model: BaseModel, optimizer: Optimizer, arguments: FitArguments) -> Update:
    """Return what turns gradients into new weights, by torch or by DeepSpeed."""
    placement = model.placement
    settings = (
        placement.scaler,
        arguments.clip_grad_norm,
        arguments.clip_grad_value,
        model.lr_scheduler,
        arguments.scheduler_step,
        model.objective.penalties,
    )
    if model.StepRunner is None and needs_closure(optimizer):
        _check_closure(model, optimizer)
        update: Update = ClosureUpdate(optimizer, *settings)
    elif placement.zero is None:
        update = Update(optimizer, *settings)
    else:
        placement.zero.check_optimizer(optimizer)
        # DeepSpeed takes one module, so net and loss become one.
        module = LossModule(model.net, model.objective.module)
        window = arguments.gradient_accumulation_steps
        clip = placement.zero.clipping(arguments.clip_grad_norm, arguments.clip_grad_value, window)
        zero_optimizer = ZeroOptimizer(placement.zero, optimizer, module, clip)
        update = ZeroUpdate(zero_optimizer, *settings)
    # Updates are counted over all fits: schedules and checkpoints refer to that number.
    update.completed = model.progress.updates
    return update


def _check_closure(model: BaseModel, optimizer: Optimizer) -> None:
    """Raise an error where an optimizer cannot evaluate the loss again.

    Raises:
        ValueError: The fit has several processes, a gradient scaler or several optimizers.
    """
    placement = model.placement
    reasons = {
        f"one of several optimizers ({name_of(optimizer)})": isinstance(optimizer, Optimizers),
        f"{placement.processes.world_size} processes": placement.processes.is_distributed,
        "mixed_precision='fp16'": placement.scaler is not None,
        "a step of your own": model.has_own_step,
    }
    for reason, holds in reasons.items():
        if holds:
            message = (
                f"{name_of(optimizer)} evaluates the loss several times in a step, which does not "
                f"work with {reason}; use one process, one optimizer, 'bf16', or a loss"
            )
            raise ValueError(message)
