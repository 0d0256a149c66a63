"""Files of sharded tensors: each rank writes its own, as torch.distributed.checkpoint does."""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fitorch import files as disk
from fitorch.devices.accelerators import HOST
from fitorch.distributed.dtensor import is_split, map_leaves
from fitorch.errors import CheckpointCorruptedError, CheckpointWriteError
from fitorch.files import FileDigest

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from fitorch.distributed.processes import Processes


FOLDER = "shards"  # in the folder of a checkpoint

# What torch raises for damaged files, or if the disk is full.
_FAULTS = (LookupError, TypeError, ValueError, AttributeError, OSError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Shard:
    """The place of a sharded tensor in a state.

    Args:
        name: The name of the tensor in the files.
    """

    name: str


def extract_tensors(state: object) -> tuple[Any, dict[str, Tensor]]:
    """Return a state with a `Shard` for each sharded tensor, and these tensors by name."""
    tensors: dict[str, Tensor] = {}

    def extract(value: Any, path: tuple[str, ...]) -> Any:
        if not is_split(value):
            return value
        name = ".".join(path)
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        tensors[name] = value.detach()
        return Shard(name)

    return map_leaves(state, extract), tensors


def write_shards(
    folder: Path, tensors: dict[str, Tensor], processes: Processes
) -> dict[str, FileDigest]:
    """Write the shards of this rank into a new folder; return the digests of all ranks' files.

    Every rank must call this.

    Raises:
        CheckpointWriteError: A rank cannot write; every rank raises the error.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _errors(CheckpointWriteError, f"cannot write the shards to {folder}"):
        # This is a collective: every rank writes its file, and rank 0 plans who writes what.
        save(tensors, storage_writer=writer)
    written = folder.glob(f"shard-{processes.rank + 1:05d}-*.safetensors")
    # torch leaves the files in the cache. Each rank flushes its own: only its machine has them.
    # This waits for the disk.
    digests = {f"{FOLDER}/{path.name}": disk.fsync(path) for path in written}
    # The ranks wait for each other; rank 0 then writes all digests into the manifest.
    return dict(ChainMap(*processes.gather(digests)))


def load_tensors(state: object, folder: Path, mesh: DeviceMesh | None = None) -> Any:
    """Return a state with tensors in place of its `Shard`s.

    Args:
        state: The state.
        folder: The folder of the shards, verified.
        mesh: The ranks that shard the tensors along dimension 0, all of which must call this; None
            for full tensors on the CPU.

    Raises:
        CheckpointCorruptedError: A tensor is missing, or incomplete.
    """
    # The dict serves as an ordered set: all ranks must load in the same order.
    names: dict[str, None] = {}

    def collect(value: object, _path: tuple[str, ...]) -> object:
        if isinstance(value, Shard):
            names[value.name] = None
        return value

    map_leaves(state, collect)
    if not names:
        return state
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    with _errors(CheckpointCorruptedError, f"cannot read the shards in {folder}"):
        table = reader.read_metadata().state_dict_metadata
        tensors = {name: _empty(name, table, mesh) for name in names}
        # With a mesh this is a collective, in which each rank reads its shards.
        load(tensors, storage_reader=reader, no_dist=mesh is None)
    return map_leaves(
        state, lambda leaf, _: tensors[leaf.name] if isinstance(leaf, Shard) else leaf
    )


def _empty(name: str, table: Mapping[str, Any], mesh: DeviceMesh | None) -> Tensor:
    """Return an empty tensor to read into."""
    if name not in table:
        message = f"{name} is not among them"
        raise CheckpointCorruptedError(message)
    entry = table[name]
    # Before memory is allocated: a damaged file may claim any size.
    stored = sum(chunk.sizes.numel() for chunk in entry.chunks)
    consistent = all(len(chunk.offsets) == len(chunk.sizes) for chunk in entry.chunks)
    if not consistent or stored != entry.size.numel():
        message = f"{name} has {stored:,} elements, but its shape is {tuple(entry.size)}"
        raise CheckpointCorruptedError(message)
    dtype = entry.properties.dtype
    if mesh is None:
        return torch.empty(entry.size, dtype=dtype, device=HOST)
    from torch.distributed import tensor

    sharded: Tensor = tensor.empty(
        entry.size, dtype=dtype, device_mesh=mesh, placements=[tensor.Shard(0)]
    )
    return sharded


@contextmanager
def _errors(error_class: type[Exception], action: str) -> Iterator[None]:
    """Convert errors of torch.distributed.checkpoint, some of which are not Exceptions."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls deprecated functions of its own
        try:
            yield
        except CheckpointException as error:
            causes = [f"process {rank}: {cause[0]}" for rank, cause in error.failures.items()]
            message = f"{action}: {'; '.join(causes)}"
            raise error_class(message) from error
        except _FAULTS as error:
            message = f"{action}: {type(error).__name__}: {error}"
            raise error_class(message) from error
