"""Tensors that are split over processes, in files: torch.distributed.checkpoint's safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fitorch import files as disk
from fitorch.distributed.dtensor import is_split, map_leaves
from fitorch.errors import CheckpointCorruptedError, CheckpointWriteError
from fitorch.files import FileDigest

if TYPE_CHECKING:
    from fitorch.distributed.processes import Processes


FOLDER = "shards"  # in that of a checkpoint

# What torch raises over files that are not what they should be, or a disk that is full.
_FAULTS = (LookupError, TypeError, ValueError, AttributeError, OSError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Shard:
    """What stands in a state for a tensor that is stored in parts.

    Args:
        name: What it is called there.
    """

    name: str


def taken_out(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return a state with a `Shard` for each tensor that is split, and these tensors by name."""
    found: dict[str, Tensor] = {}

    def take(value: Any, path: tuple[str, ...]) -> Any:
        if not is_split(value):
            return value
        name = ".".join(path)
        while name in found:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        found[name] = value.detach()
        return Shard(name)

    return map_leaves(state, take), found


def write(folder: Path, tensors: dict[str, Tensor], processes: Processes) -> dict[str, FileDigest]:
    """Write this process' parts of tensors into a new folder; return all files by their names.

    Every process must call this.

    Raises:
        CheckpointWriteError: A process can't write; all tell so.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _errors(CheckpointWriteError, f"the shards can't be written to {folder}"):
        save(tensors, storage_writer=writer)
    own = folder.glob(f"shard-{processes.rank + 1:05d}-*.safetensors")
    everywhere = processes.gather({f"{FOLDER}/{path.name}": disk.fsync(path) for path in own})
    return {name: entry for each in everywhere for name, entry in each.items()}


def filled(state: Any, folder: Path, mesh: Any = None) -> Any:
    """Return a state with tensors in the place of its `Shard`s.

    Args:
        state: The state.
        folder: Where the parts are, verified.
        mesh: The processes to split the tensors over along dimension 0, all of which must call
            this; None for whole tensors on the CPU.

    Raises:
        CheckpointCorruptedError: A tensor is not there, or not all of it.
    """
    names: dict[str, None] = {}

    def note(value: Any, _path: Any) -> Any:
        if isinstance(value, Shard):
            names[value.name] = None
        return value

    map_leaves(state, note)
    if not names:
        return state
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    with _errors(CheckpointCorruptedError, f"the shards in {folder} can't be read"):
        table = reader.read_metadata().state_dict_metadata
        tensors = {name: _empty(name, table, mesh) for name in names}
        load(tensors, storage_reader=reader, no_dist=mesh is None)
    return map_leaves(
        state, lambda each, _: tensors[each.name] if isinstance(each, Shard) else each
    )


def _empty(name: str, table: Any, mesh: Any) -> Tensor:
    """Return a tensor to read into; its size is what its parts add up to, not what they claim."""
    if name not in table:
        message = f"{name} is not among them"
        raise CheckpointCorruptedError(message)
    found = table[name]
    stored = sum(chunk.sizes.numel() for chunk in found.chunks)
    placed = all(len(chunk.offsets) == len(chunk.sizes) for chunk in found.chunks)
    if not placed or stored != found.size.numel():
        message = f"of {name} {stored:,} elements are there, of {tuple(found.size)}"
        raise CheckpointCorruptedError(message)
    dtype = found.properties.dtype
    if mesh is None:
        return torch.empty(found.size, dtype=dtype)
    from torch.distributed import tensor

    split: Tensor = tensor.empty(
        found.size, dtype=dtype, device_mesh=mesh, placements=[tensor.Shard(0)]
    )
    return split


@contextmanager
def _errors(kind: type[Exception], what: str) -> Iterator[None]:
    """Raise errors of torch.distributed.checkpoint, some of which are no Exceptions, as ours."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated calls within torch
        try:
            yield
        except CheckpointException as error:
            causes = [f"process {rank}: {cause[0]}" for rank, cause in error.failures.items()]
            message = f"{what}: {'; '.join(causes)}"
            raise kind(message) from error
        except _FAULTS as error:
            message = f"{what}: {type(error).__name__}: {error}"
            raise kind(message) from error
