"""Start a fit: a new one, or one that is resumed from a checkpoint."""

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

from .rehearsal import rehearse
from .setup import prepare

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


def run_folder(
    arguments: FitArguments, processes: Processes
) -> AbstractContextManager[RunFolder | None]:
    """Return a context that opens the folder of the run, None if the fit does not have one."""
    if arguments.folder is None:
        return nullcontext()
    if not processes.is_main:
        # Only rank 0 locks and writes the folder.
        return nullcontext(RunFolder(arguments.folder, arguments.keep))
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
    """Return a fit that is ready to run, new or restored from a checkpoint.

    Raises:
        CheckpointError: The checkpoint cannot be restored, or a state cannot be stored.
        ValueError, TypeError: See `prepare`.
    """
    processes = model.placement.processes
    resumes = arguments.resume or arguments.backup is not None
    # This is a collective: all ranks resume the same checkpoint, or none does.
    checkpoint = find_on_all_ranks(resumes, folder, processes)
    if checkpoint is not None:
        # Without a seed argument the fit drew one; only with that one it continues alike.
        seed = arguments.seed if arguments.seeded else int(checkpoint.info["seed"])
        arguments = replace(arguments, initial_epoch=0, seed=seed, resume=False)
    progress = model.progress
    try:
        # The fit is prepared as if it were new; then its states are replaced.
        run = prepare(model, train_data, val_data, arguments, folder)
        if run.saver is not None:
            # A state that cannot be saved is an error now, not after the first epoch.
            run.saver.try_encoding()
        if checkpoint is not None:
            restore(run, checkpoint)
        rehearse(run)
        # A barrier: rank 0 moves earlier checkpoints away below, after all ranks have read theirs.
        processes.gather(None)
    except BaseException:
        # The model of a fit that did not start is as it was before.
        model.progress, model.run = progress, None
        raise
    if folder is not None and processes.is_main:
        # The earlier run is moved last: if anything above fails, it stays where it is.
        _move_earlier_run(folder, run, checkpoint)
        folder.notes += [] if checkpoint is None else [_resume_message(run, checkpoint)]
    return run


def _resume_message(run: Run, loaded: LoadedCheckpoint) -> str:
    """Return the message about the checkpoint that a fit resumes."""
    epochs, batch = loaded.info["epoch"], loaded.info["batch"]
    path = shown(loaded.checkpoint.path)
    if run.done:
        reason = loaded.info.get("stopped")
        stopped = f" (stopped: {reason})" if reason else ""
        return f"{path} is complete, with {epochs} epochs{stopped}; pass a larger epochs= to resume"
    return f"resuming {path} at epoch {epochs + 1}" + (f", batch {batch}" if batch else "")


def _move_earlier_run(folder: RunFolder, run: Run, loaded: LoadedCheckpoint | None) -> None:
    """Move files of an earlier run out of the folder unless this fit resumes that run."""
    checkpoints = folder.store.folder.resolve()
    if loaded is not None and loaded.checkpoint.path.parent.resolve() == checkpoints:
        if run.saver is not None:
            run.saver.resumed_from = folder.store.folder / loaded.checkpoint.path.name
        # Newer checkpoints are moved away: the fit will write other ones of the same steps.
        newer = [c for c in folder.store.list() if c.order > loaded.checkpoint.order]
        folder.set_checkpoints_aside(newer)
    elif loaded is not None or folder.run_id() != run.model.run_id:
        folder.set_aside()
