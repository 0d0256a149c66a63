"""The parts of a checkpoint, as they are written: each a tree of plain values, and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fitorch import files as disk
from fitorch.errors import CheckpointError
from fitorch.files import FileDigest
from fitorch.tree import byte_count

from .encoding import Encoder, as_tensor
from .manifest import is_file_name
from .serialization import json_bytes, tensor_parts


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a checkpoint, ready to be written.

    Args:
        tree: What JSON holds, None where the part is nothing but named tensors.
        tensors: The tensors, by name.
    """

    tree: Any
    tensors: dict[str, Tensor]

    def copied(self) -> Part:
        """Return the part with tensors of its own, on the CPU."""
        return Part(self.tree, {name: _copy(tensor) for name, tensor in self.tensors.items()})


def pack(parts: Mapping[str, Any]) -> dict[str, Part]:
    """Return states as they are written; their tensors are not copied.

    Raises:
        CheckpointError: A state holds something that can't be stored, and it names the path to it;
            or a part has a name that no file can have.
    """
    packed = {}
    for name, state in parts.items():
        if "/" in name or not is_file_name(f"{name}.json"):
            message = f"a part of a checkpoint can't be called {name!r}; use letters and digits"
            raise CheckpointError(message)
        encoder = Encoder()
        tree = encoder.encode(state, name)
        packed[name] = Part(None if _is_plain(tree) else tree, encoder.tensors)
    return packed


def write_parts(folder: Path, parts: Mapping[str, Part]) -> Iterator[tuple[str, FileDigest]]:
    """Write the files of all parts; give the name of each, and what it is."""
    for name, part in parts.items():
        if part.tensors or part.tree is None:
            file = f"{name}.safetensors"
            yield file, disk.write(folder / file, tensor_parts(part.tensors, {"format": "pt"}))
        if part.tree is not None:
            file = f"{name}.json"
            yield file, disk.write(folder / file, [json_bytes(part.tree)])


def size_of_parts(parts: Mapping[str, Part]) -> int:
    """Return the bytes of all tensors."""
    return byte_count([part.tensors for part in parts.values()])


def _is_plain(tree: Any) -> bool:
    """Say whether a state is nothing but tensors with names of their own, as a net's mostly is."""
    return isinstance(tree, dict) and all(tree[name] == as_tensor(name) for name in tree)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
