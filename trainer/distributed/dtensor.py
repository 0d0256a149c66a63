"""Tensors of which each process holds a part: what they add up to, and how they are stored.

They are torch's DTensors, which FSDP2 makes of a net's parameters. torch.distributed.checkpoint
stores them, each process its own parts, as safetensors that any number of processes can load.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from . import disk
from .disk import Entry
from .errors import CheckpointCorruptedError, CheckpointWriteError

if TYPE_CHECKING:
    from .processes import Processes

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


def is_split(value: Any) -> bool:
    """Say whether each process holds a part of a tensor."""
    return hasattr(value, "full_tensor")  # to ask for its class would import it


def local(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process holds: all of it, where it is not split."""
    part: Tensor = tensor.to_local() if is_split(tensor) else tensor
    return part


def whole(tensor: Any) -> Tensor:
    """Return all of a tensor; where it is split, every process must call this."""
    joined: Tensor = tensor.full_tensor() if is_split(tensor) else tensor
    return joined


def joined(state: Any, *, keep: bool) -> Any:
    """Return a state with all of each tensor that is split, on the CPU; every process must call it.

    Args:
        state: The state.
        keep: Whether this process wants them; where not, each is let go of once it is whole.
    """

    def join(value: Any, _path: Any) -> Any:
        if not is_split(value):
            return value
        all_of_it = whole(value.detach())
        return all_of_it.cpu() if keep else None

    return _mapped(state, join)


def like(value: Any, own: Any) -> Any:
    """Return a tensor that all processes have, split as `own` is."""
    if not is_split(own) or is_split(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(own.device, own.dtype)
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)


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

    return _mapped(state, take), found


def write(folder: Path, tensors: dict[str, Tensor], processes: Processes) -> dict[str, Entry]:
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
    everywhere = processes.gather({f"{FOLDER}/{path.name}": disk.settle(path) for path in own})
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

    _mapped(state, note)
    if not names:
        return state
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    with _errors(CheckpointCorruptedError, f"the shards in {folder} can't be read"):
        table = reader.read_metadata().state_dict_metadata
        tensors = {name: _empty(name, table, mesh) for name in names}
        load(tensors, storage_reader=reader, no_dist=mesh is None)
    return _mapped(state, lambda each, _: tensors[each.name] if isinstance(each, Shard) else each)


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


def _mapped(
    value: Any, change: Callable[[Any, tuple[str, ...]], Any], path: tuple[str, ...] = ()
) -> Any:
    """Return dicts, lists and tuples anew, with each of their leaves changed."""
    if type(value) in (dict, OrderedDict):
        return {key: _mapped(each, change, (*path, str(key))) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(each, change, (*path, str(i))) for i, each in enumerate(value))
    return change(value, path)


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
