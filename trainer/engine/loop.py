"""The training loop: epochs, each with training and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitorch.callbacks.hooks import emit, emit_all
from fitorch.callbacks.logs import EpochLogs
from fitorch.nets.modes import modes_restored
from fitorch.randomness import undisturbed_randomness

from .stage import run_stage

if TYPE_CHECKING:
    from .run import Run


def fit(run: Run) -> None:
    """Train epoch after epoch, until the last one or until a stop is requested."""
    with run.shutdown.signals, modes_restored(run.net):
        try:
            emit(run.hooks.on_train_begin, {})
            # These follow the hooks: callbacks have seen the flags of the script, and one of any
            # process may request a stop in on_train_begin.
            run.state.trained.apply()
            run.coordinator.begin()
            while not run.done:
                run_epoch(run)
            # A signal that arrived after the last stage still saves and raises here.
            run.shutdown.honor_signals()
        # KeyboardInterrupt and Preempted (a SystemExit) are not Exceptions and pass through:
        # `honor_signals` saves the state before it raises one, and a second signal aborts on
        # purpose.
        except Exception as error:
            if not run.shutdown.forgives(error, consistent=run.consistent):
                raise
        finally:
            # Also after an error, the net keeps the weights that are measured.
            run.state.update.end_training()
            # All callbacks get on_train_end, even if one of them fails: they close files and
            # displays.
            emit_all(run.hooks.on_train_end, run.logs)
        # A collective with DeepSpeed, so not in `finally`: after an error others may not take part.
        run.state.update.collect()
        run.shutdown.raise_signal()


def run_epoch(run: Run) -> None:
    """Train for one epoch, validate if it is due, step the schedule, and call the hooks."""
    epoch = run.progress.epochs
    emit(run.hooks.on_epoch_begin, epoch, {})
    logs = EpochLogs(train(run, epoch))
    # A checkpoint that is saved here holds the trained epoch without its validation; a resumed fit
    # has no batch left in the epoch and starts with the validation.
    run.shutdown.honor_signals()
    if validation := run.validation_in(epoch):
        # Training continues with the random numbers that it would draw without validation.
        with undisturbed_randomness():
            logs |= validation(f"epoch {epoch + 1}, ")
        run.shutdown.honor_signals()
    # Schedule and counters advance before the hooks: a checkpoint that on_epoch_end saves must hold
    # the state in which the next epoch starts.
    run.schedule(logs)
    run.end_epoch(logs)
    emit(run.hooks.on_epoch_end, epoch, logs)
    # Callbacks of one process may have requested a stop; all must begin the next epoch or none.
    run.coordinator.synchronize()


def train(run: Run, epoch: int) -> dict[str, float]:
    """Train on the batches of an epoch; return its values and the learning rates."""
    run.begin_training()
    run_stage(
        run.net,
        run.step,
        run.batches(),
        run.hooks.on_train_batch_begin,
        run.hooks.on_train_batch_end,
        f"epoch {epoch + 1}, training batch",
        first=run.iterator.taken,
    )
    # The values are computed later: if the epoch is cut short, the checkpoint holds the sums so
    # far, to which a resumed fit adds the remaining batches.
    run.pause()
    run.state.update.end_training()
    return run.figures()
