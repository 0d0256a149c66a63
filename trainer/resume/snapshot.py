"""The state of a fit on all ranks, arranged by the files of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fitorch.checkpoint import shards
from fitorch.checkpoint.checkpoint import Checkpoint
from fitorch.checkpoint.parts import Part, pack
from fitorch.checkpoint.store import CheckpointStore
from fitorch.distributed.processes import Processes
from fitorch.files import FileDigest


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a fit, arranged for writing.

    The main process writes the state of all ranks; if the net is sharded, each rank writes its
    shards.

    Args:
        parts: The state by file; None except in the main process.
        split: The sharded tensors by name.
        processes: The ranks of the fit.
    """

    parts: dict[str, Any] | None
    split: dict[str, Tensor]
    processes: Processes

    @classmethod
    def of(cls, state: dict[str, Any], processes: Processes) -> Snapshot:
        """Arrange a state: random state, sums and position of each rank, and what all share."""
        rest = dict(state)
        local = {name: rest.pop(name) for name in ("random", "sums", "feed")}
        rest, split = shards.extract_tensors(rest)  # on all ranks, which hold the other shards
        # This is a collective: the ranks wait for the main process.
        locals_of_ranks = processes.gather_to_main(local)
        if locals_of_ranks is None:
            return cls(None, split, processes)
        net, optimizer = rest.pop("net"), rest.pop("optimizer")
        ranks = {f"rank-{rank:05d}": state for rank, state in enumerate(locals_of_ranks)}
        return cls({"model": net, "optimizer": optimizer, "state": rest, **ranks}, split, processes)

    def packed(self) -> dict[str, Part]:
        """Return the parts in the form that is written; {} except in the main process.

        Raises:
            CheckpointError: A state has a value that is not supported.
        """
        return pack(self.parts or {})

    def write(
        self,
        store: CheckpointStore,
        step: int,
        parts: Mapping[str, Part],
        info: Mapping[str, Any],
        protected: Collection[Path] = (),
    ) -> Checkpoint | None:
        """Write a checkpoint; if the net is sharded, every rank must call this.

        Returns:
            The checkpoint; None except in the main process.

        Raises:
            CheckpointWriteError: Writing failed.
        """
        if not self.split:
            return None if self.parts is None else store.write(step, parts, info, protected)
        if self.parts is None:
            # This waits until the main process has made the folder, or has failed before that.
            folder = self.processes.broadcast(None)
            if folder is not None:  # otherwise the main process has failed, and raises
                shards.write_shards(folder, self.split, self.processes)
            return None
        folder_sent = False

        def write_shards(folder: Path) -> dict[str, FileDigest]:
            nonlocal folder_sent
            folder_sent = True
            return shards.write_shards(self.processes.broadcast(folder), self.split, self.processes)

        try:
            return store.write(step, parts, info, protected, write_shards)
        finally:
            if not folder_sent:  # the other ranks wait for it
                self.processes.broadcast(None)


def state_of_rank(parts: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    """Return the state of a rank from the parts that `Snapshot.of` arranged."""
    shared = {"net": parts["model"], "optimizer": parts["optimizer"]}
    return {**parts["state"], **shared, **parts[f"rank-{rank:05d}"]}
