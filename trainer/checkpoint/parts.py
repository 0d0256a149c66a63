"""The parts of a checkpoint in the form that is written: JSON values, and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fitorch import files as disk
from fitorch.devices.copies import copies_in_host_memory
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
        tree: The JSON values, None if the part consists only of named tensors.
        tensors: The tensors, by name.
    """

    tree: Any
    tensors: dict[str, Tensor]

    def copied(self) -> Part:
        """Return the part with copies of its tensors on the CPU, which training changes in place.

        For tensors on a device this waits once.
        """
        copies = copies_in_host_memory(list(self.tensors.values()))
        return Part(self.tree, dict(zip(self.tensors, copies, strict=True)))


def pack(parts: Mapping[str, Any]) -> dict[str, Part]:
    """Return states in the form that is written; their tensors are not copied.

    Raises:
        CheckpointError: A value is not supported (the message names its path), or the name of a
            part is not valid for a file.
    """
    packed = {}
    for name, state in parts.items():
        if "/" in name or not is_file_name(f"{name}.json"):
            message = f"{name!r} is not a valid name for a part; use letters and digits"
            raise CheckpointError(message)
        encoder = Encoder()
        tree = encoder.encode(state, name)
        packed[name] = Part(None if _has_only_tensors(tree) else tree, encoder.tensors)
    return packed


def write_parts(folder: Path, parts: Mapping[str, Part]) -> Iterator[tuple[str, FileDigest]]:
    """Write the files of all parts; yield the name and the digest of each."""
    for name, part in parts.items():
        # A part without tensors and values still gets a file, so that it exists when it is read.
        if part.tensors or part.tree is None:
            file = f"{name}.safetensors"
            yield file, disk.write(folder / file, tensor_parts(part.tensors, {"format": "pt"}))
        if part.tree is not None:
            file = f"{name}.json"
            yield file, disk.write(folder / file, [json_bytes(part.tree)])


def size_of_parts(parts: Mapping[str, Part]) -> int:
    """Return the bytes of all tensors."""
    return byte_count([part.tensors for part in parts.values()])


def _has_only_tensors(tree: object) -> bool:
    """Return whether a state consists only of named tensors, as that of most nets."""
    return isinstance(tree, dict) and all(tree[name] == as_tensor(name) for name in tree)
