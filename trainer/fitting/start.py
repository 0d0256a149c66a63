"""Start a fit: a new one, or one that continues from a checkpoint."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fitorch.checkpoint.finding import LoadedCheckpoint, find_on_all_ranks
from fitorch.checkpoint.run_folder import RunFolder
from fitorch.distributed.processes import Processes
from fitorch.engine.arguments import FitArguments
from fitorch.engine.run import Run
from fitorch.files import shown
from fitorch.resume.restore import restore

from .setup import prepare

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


def run_folder(
    arguments: FitArguments, processes: Processes
) -> AbstractContextManager[RunFolder | None]:
    """Return the folder that a fit writes into, where it was given one."""
    if arguments.folder is None:
        return nullcontext()
    if not processes.is_main:
        return nullcontext(RunFolder(arguments.folder, arguments.keep))  # the main one writes
    backup = arguments.backup
    temporary = backup is not None and backup.delete_checkpoint
    return RunFolder(arguments.folder, arguments.keep, temporary=temporary)


def start(
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
    found = find_on_all_ranks(arguments.resume or arguments.backup is not None, folder, processes)
    if found is not None:
        drawn = arguments.seed if arguments.seeded else int(found.info["seed"])
        arguments = replace(arguments, initial_epoch=0, seed=drawn, resume=False)
    progress = model.progress
    try:
        run = prepare(model, train_data, val_data, arguments, folder)
        if run.saver is not None:
            run.saver.try_encoding()
        if found is not None:
            restore(run, found)
        processes.gather(None)  # all have read it, and the others may be moved away
    except BaseException:
        model.progress, model.run = progress, None
        raise
    if folder is not None and processes.is_main:
        _make_way(folder, run, found)
        folder.notes += [] if found is None else [_story(run, found)]
    return run


def _story(run: Run, found: LoadedCheckpoint) -> str:
    """Say what a fit goes on with."""
    done, batch, path = found.info["epoch"], found.info["batch"], shown(found.checkpoint.path)
    if run.done:
        stopped = found.info.get("stopped")
        why = f", stopped since {stopped}" if stopped else ""
        return f"{path} is complete, with {done} epochs{why}; a larger epochs= goes on"
    return f"going on from {path}: epoch {done + 1}" + (f" after batch {batch}" if batch else "")


def _make_way(folder: RunFolder, run: Run, found: LoadedCheckpoint | None) -> None:
    """Move out of the way what an earlier run left, where this one does not go on with it."""
    own = folder.store.folder.resolve()
    if found is not None and found.checkpoint.path.parent.resolve() == own:
        if run.saver is not None:
            run.saver.resumed_from = folder.store.folder / found.checkpoint.path.name
        newer = [c for c in folder.store.list() if c.order > found.checkpoint.order]
        folder.set_checkpoints_aside(newer)
    elif found is not None or folder.run_id() != run.model.run_id:
        folder.set_aside()
