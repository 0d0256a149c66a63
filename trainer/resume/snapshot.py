"""Where a fit stands, as it is stored: by files, of all its processes together."""

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
    """A fit's state, arranged for writing.

    The main process writes for all; where the net is split, each writes its own part of that.

    Args:
        parts: The state by the files that it is stored in; None but in the main process.
        split: Tensors of which each process holds a part.
        processes: Those of the fit.
    """

    parts: dict[str, Any] | None
    split: dict[str, Tensor]
    processes: Processes

    @classmethod
    def of(cls, state: dict[str, Any], processes: Processes) -> Snapshot:
        """Arrange a state. Each process has random numbers, sums and a place of its own."""
        rest = dict(state)
        own = {name: rest.pop(name) for name in ("random", "sums", "feed")}
        rest, split = shards.taken_out(rest)
        everywhere = processes.gather_to_main(own)
        if everywhere is None:
            return cls(None, split, processes)
        net, optimizer = rest.pop("net"), rest.pop("optimizer")
        ranks = {f"rank-{rank:05d}": each for rank, each in enumerate(everywhere)}
        return cls({"model": net, "optimizer": optimizer, "state": rest, **ranks}, split, processes)

    def packed(self) -> dict[str, Part]:
        """Return the parts as they are written, none but in the main process.

        Raises:
            CheckpointError: A state can't be stored.
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
        """Write a checkpoint; where the net is split, every process must call this.

        Returns:
            The checkpoint; None but in the main process.

        Raises:
            CheckpointWriteError: It can't be written.
        """
        if not self.split:
            return None if self.parts is None else store.write(step, parts, info, protected)
        if self.parts is None:
            folder = self.processes.from_main(None)
            if folder is not None:  # else the main process has failed, and tells why
                shards.write(folder, self.split, self.processes)
            return None
        told = False

        def write_split(folder: Path) -> dict[str, FileDigest]:
            nonlocal told
            told = True
            return shards.write(self.processes.from_main(folder), self.split, self.processes)

        try:
            return store.write(step, parts, info, protected, write_split)
        finally:
            if not told:
                self.processes.from_main(None)


def rearranged(parts: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    """Return the state of a process of a fit out of what `Snapshot` made of it."""
    whole = {"net": parts["model"], "optimizer": parts["optimizer"]}
    return {**parts["state"], **whole, **parts[f"rank-{rank:05d}"]}
