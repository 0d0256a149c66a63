"""Collect the callbacks of a fit in their order, and the objects that depend on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fitorch.callbacks.best_weights import BestWeights
from fitorch.callbacks.callback_list import flatten_callbacks, on_every_process
from fitorch.callbacks.display.notebook import NotebookProgress
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.early_stopping import EarlyStopping
from fitorch.callbacks.foreign import refuse_foreign
from fitorch.callbacks.hooks import Hooks
from fitorch.callbacks.max_time import MaxTime
from fitorch.callbacks.monitor import MonitorCallback, added_columns
from fitorch.callbacks.plot_file import HistoryPlot
from fitorch.callbacks.torchkeras_trackers import WandbCallback
from fitorch.checkpoint.run_folder import RunFolder
from fitorch.engine.arguments import FitArguments
from fitorch.engine.coordinator import Coordinator
from fitorch.engine.shutdown import Shutdown
from fitorch.engine.signals import SignalHandler
from fitorch.environment import in_notebook
from fitorch.resume.checkpoint_saver import CheckpointSaver, StepCheckpointSaver

from .messages import Announcer
from .monitors import check_monitors, monitored_value
from .recorder import Recorder

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class FitCallbacks:
    """The callbacks of a fit.

    Args:
        every: All callbacks, in their order.
        hooks: The hooks that they override.
        monitor: The full name of the value that decides what is best.
        mode: "min" or "max".
        coordinator: Makes the decisions that all processes share.
        shutdown: Ends the fit after a signal or an error.
    """

    every: list[Any]
    hooks: Hooks
    monitor: str
    mode: str
    coordinator: Coordinator
    shutdown: Shutdown


def set_up_callbacks(
    model: BaseModel, arguments: FitArguments, sets: list[str], folder: RunFolder | None
) -> FitCallbacks:
    """Return the user's callbacks and those that the arguments of a fit ask for.

    Args:
        model: The model that is trained.
        arguments: The arguments of the fit.
        sets: The prefix of the values of each validation set, as "val_".
        folder: The folder that the fit writes to, or None.

    Raises:
        ValueError: A callback monitors a value that the fit does not measure.
        TypeError: An object is not a callback.
    """
    # The names come first: monitored values are checked against them before any callback exists.
    names = model.figure_names(sets, train_metrics=arguments.train_metrics)
    names = _with_monitored(model, names, arguments)
    monitor, mode = monitored_value(model, arguments, names, sets)
    # A signal is worth a clean stop only if something can be saved, or others must stop too.
    signals, saver = SignalHandler(model, saves=folder is not None), make_saver(folder, arguments)
    every = make_callbacks(model, arguments, monitor, mode, signals, saver)
    check_monitors(every, model, names, sets)
    processes = model.placement.processes
    return FitCallbacks(
        every,
        # The hooks are collected once; the loop never looks at the callbacks again.
        Hooks.collect(every),
        monitor,
        mode,
        Coordinator(processes, model, signals, every),
        Shutdown(signals, saver, every, alone=not processes.is_distributed),
    )


def make_saver(folder: RunFolder | None, arguments: FitArguments) -> CheckpointSaver | None:
    """Return the callback that saves checkpoints, None if there is no folder for them."""
    if folder is None:
        return None
    options: dict[str, Any] = {
        "on_error": arguments.on_save_error,
        "background": arguments.async_save,
    }
    steps, minutes = arguments.save_every_n_steps, arguments.save_every_minutes
    if arguments.backup is not None and steps is None:
        steps = arguments.backup.every_n_steps
    if steps is None and minutes is None:
        return CheckpointSaver(folder, **options)
    return StepCheckpointSaver(folder, steps, minutes, **options)


def make_callbacks(
    model: BaseModel,
    arguments: FitArguments,
    monitor: str,
    mode: str,
    signals: SignalHandler,
    saver: CheckpointSaver | None = None,
) -> list[Any]:
    """Return all callbacks in their order: history, stopping, the user's, trackers, displays.

    Two kinds of the user's callbacks come before stopping, because it depends on them: first those
    that replace the weights of the net, then those that add `monitor` to the logs.
    """
    refuse_foreign(arguments.callbacks)
    early, others = _sorted(arguments.callbacks, monitor)
    # The history comes first, so that all others see the row of the epoch in it.
    callbacks: list[Any] = [model.history, Recorder(), *early]
    if arguments.max_time is not None:
        callbacks.append(MaxTime(arguments.max_time))
    if arguments.patience is not None:
        callbacks.append(EarlyStopping(monitor, patience=arguments.patience, mode=mode))
    if arguments.patience is not None or arguments.ckpt_path is not None:
        callbacks.append(BestWeights(monitor, mode, arguments.ckpt_path))
    callbacks += others
    if arguments.wandb:
        project = arguments.wandb if isinstance(arguments.wandb, str) else None
        callbacks.append(WandbCallback(project))
    if saver is not None:
        # The saver follows all callbacks with a state, which its checkpoints contain.
        callbacks.append(saver)
    if arguments.plot and not (arguments.plot is True and in_notebook()):
        callbacks.append(HistoryPlot(_plot_path(arguments.plot, arguments.ckpt_path)))
    if arguments.verbose:
        progress = _display(arguments, monitor, mode)
        notes = [] if saver is None else saver.folder.notes
        # The display comes last, because it shows values that callbacks add.
        callbacks += [Announcer(progress, [*callbacks, signals], notes), progress]
    # The other processes do not write or print, but must take part in collectives.
    return callbacks if model.placement.processes.is_main else on_every_process(callbacks)


def _display(arguments: FitArguments, monitor: str, mode: str) -> Progress:
    """Return the progress display; in a notebook it has a live plot, except with plot=False."""
    if arguments.verbose == 2 or not in_notebook():
        return Progress(2 if arguments.verbose == 2 else 1, monitor=monitor, mode=mode)
    return NotebookProgress(monitor=monitor, mode=mode, plot=arguments.plot is not False)


def _sorted(callbacks: Iterable[Any], monitor: str) -> tuple[list[Any], list[Any]]:
    """Return the user's callbacks that come before those of fit, and those that come after."""
    # All lists keep the user's order, because later callbacks may depend on earlier ones.
    first, adding, others = list[Any](), list[Any](), list[Any]()
    for callback in callbacks:
        group = adding if monitor in added_columns(callback) else others
        (first if getattr(callback, "comes_first", False) is True else group).append(callback)
    # The sort is stable, so that the order within each group is that of the user.
    others.sort(key=lambda callback: getattr(callback, "comes_last", False) is True)
    return [*first, *adding], others


def _with_monitored(model: BaseModel, names: list[str], arguments: FitArguments) -> list[str]:
    """Return `names`; with a step of the user's, which may return any value, the monitored too.

    If it does not return a monitored value, the callback raises an error after the first epoch.
    """
    if not model.has_own_step:
        return names
    callbacks = [
        c for c in flatten_callbacks(arguments.callbacks) if isinstance(c, MonitorCallback)
    ]
    monitors = [arguments.monitor, *(callback.monitor for callback in callbacks)]
    stages = {name.partition("_")[0] for name in names} & {"train", "val"}
    monitored = [name for name in monitors if name.partition("_")[0] in stages]
    return list(dict.fromkeys([*names, *monitored]))


def _plot_path(plot: Literal[True] | str | Path, folder: str | Path | None) -> Path:
    """Return the file for the plot of the history: the given path, or one beside the checkpoint."""
    return Path(folder or ".") / "history.png" if plot is True else Path(plot)
