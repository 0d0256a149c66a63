"""Resume with another number of processes: train on the rest of the epoch, each sample once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fitorch.checkpoint.finding import LoadedCheckpoint
from fitorch.errors import CheckpointMismatchError
from fitorch.randomness import derive_seed, random_state, seed_everything, undisturbed_randomness

from .snapshot import state_of_rank

if TYPE_CHECKING:
    from fitorch.engine.run import Run


MAY_DIFFER = ("processes", "batch_size", "batches")


def state_for(run: Run, loaded: LoadedCheckpoint) -> dict[str, Any]:
    """Return the state of this rank from a checkpoint.

    If the number of processes or the batch size has changed, the position in the data is converted
    to samples (or to batches of the user's loader), and the main process gets the sums of all
    ranks.
    """
    processes = run.coordinator.processes
    saved = int(loaded.info["run_settings"]["processes"])
    # A new rank starts with the shared state of the last one; its own parts are replaced below.
    state = state_of_rank(loaded.parts, min(processes.rank, saved - 1))
    if not run.arguments.elastic or not world_changed(run, loaded):
        return state
    # The ranks have consumed the data in rounds together, so one position stands for all; their
    # sums differ, and are added up.
    ranks = [loaded.parts[f"rank-{rank:05d}"] for rank in range(saved)]
    state["sums"] = _sums(run, [each["sums"] for each in ranks])
    # Their last batches differ as well, so the mark of one does not stand for all.
    state["feed"] = {**ranks[0]["feed"], "own": None, "mark": None}
    if processes.rank >= saved:
        state["random"] = _fresh(run, int(loaded.info["epoch"]))
    _place(run, loaded, state)
    return state


def world_changed(run: Run, loaded: LoadedCheckpoint) -> bool:
    """Return whether the processes together have other batches than in the checkpoint."""
    saved = loaded.info["run_settings"]
    sizes = (saved["batch_size"], run.arguments.batch_size)
    return saved["processes"] != run.coordinator.processes.world_size or (
        sizes[0] is not None and sizes[0] != sizes[1]
    )


def _place(run: Run, loaded: LoadedCheckpoint, state: dict[str, Any]) -> None:
    """Convert the position in the pass to units that do not depend on the processes.

    Raises:
        CheckpointMismatchError: The processes have read shares of their own.
    """
    if state["feed"].get("by_share") and state["progress"]["position"]:
        message = (
            "the checkpoint is from within an epoch in which each process reads a share of "
            "train_data for itself, so its rest cannot be split otherwise; resume with "
            f"{loaded.info['run_settings']['processes']} processes, or from the end of an epoch"
        )
        raise CheckpointMismatchError(message)
    progress, pass_length = dict(state["progress"]), run.iterator.source.pass_length
    saved = loaded.info["run_settings"]
    per_round = saved["processes"] * (saved["batch_size"] or 1)
    # The unit is a sample, or a batch of the user's loader, for which the batch size is None.
    behind = state["feed"]["behind"] + progress["position"] * per_round
    if pass_length.units is not None:
        # With padded rounds, this may exceed the pass: ranks without a batch repeat one.
        behind = min(behind, pass_length.units)
    rounds, left = pass_length.rounds(), pass_length.rounds(behind)
    if rounds is not None and left is not None and progress["batches"]:
        progress["batches"] = rounds - left
    progress["position"] = 0
    state["progress"] = progress
    state["feed"] = {**state["feed"], "behind": behind}


def _sums(run: Run, everywhere: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of the epoch: those of all ranks in the main process, none in the others."""
    if len(everywhere) == 1 and run.coordinator.processes.is_main:
        return everywhere[0]
    # The copies share all but losses and metrics, which a reset would otherwise clear.
    measurement: Any = copy.copy(run.step.measurement)
    measurement.losses = copy.deepcopy(measurement.losses)
    measurement.metrics = copy.deepcopy(measurement.metrics)
    measurement.reset()
    if not run.coordinator.processes.is_main:
        return dict(measurement.state_dict())
    counted: list[Any] = []
    losses: list[Any] = []

    def note(own: object) -> list[Any]:
        counted.append(own)
        return [own]

    # The order of the ranks is the order of the sums.
    for state in everywhere:
        each = copy.copy(measurement)
        each.losses = copy.deepcopy(measurement.losses)
        each.metrics = copy.deepcopy(measurement.metrics)
        each.load_state_dict(state)
        losses.append(each.losses.sums())
        each.metrics.gathered(note)
    union = copy.copy(measurement)
    union.losses = measurement.losses.joined(losses)
    union.metrics = measurement.metrics.gathered(lambda _own: counted)
    return dict(union.state_dict())


def _fresh(run: Run, epoch: int) -> dict[str, Any]:
    """Return a random state for a rank that the saved fit did not have."""
    with undisturbed_randomness():
        rank = run.coordinator.processes.rank
        # The seed depends on the rank: two ranks must not draw the same numbers, for example for
        # dropout.
        seed_everything(derive_seed(run.arguments.seed, "model", epoch, rank))
        return random_state()
