"""The file formats of checkpoints: safetensors, and JSON of limited size in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.copies import to_host
from fitorch.errors import CheckpointCorruptedError, CheckpointError, UnsafeCheckpointError
from fitorch.files import Bytes
from fitorch.tree import byte_count

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_GROUP = 2**26  # bytes that are copied from a device at once

_PICKLE = (b"\x80", b"PK\x03\x04")  # protocol 2 and later; the zip archives of torch.save

_TAR = slice(257, 262)  # "ustar" in a tar archive, the oldest format of torch.save

# A reader may need twice the size of a file and this many bytes more: a crafted file of a few MB
# could otherwise fill the memory.
_ALLOWANCE = 2**26

_DICT = 400  # bytes of a parsed and decoded object, measured as all numbers of _is_too_large

_TENSOR = 900  # bytes of a tensor without elements, in addition to the text of its header


def tensor_parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Bytes]:
    """Yield the content of a safetensors file, one tensor after the other, without a full copy.

    Writing 500 MB with their digest takes half the time of safetensors' `save_file` and a second
    pass over the file. Tensors with the largest elements come first, so that all are aligned; the
    order of names is not kept.

    Raises:
        CheckpointError: There are so many small tensors that `read_tensors` would refuse them.

    Source: https://huggingface.co/docs/safetensors, section "Format".
    """
    # Names are sorted within a size, so that equal states have equal bytes.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + byte_count(tensor)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    # The writer refuses what no reader would accept later.
    if _is_too_large(text, end, _TENSOR):
        message = f"{len(names):,} tensors are too many small ones; concatenate them"
        raise CheckpointError(message)
    # The padding to 8 bytes aligns the data after the header.
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for group in _groups([tensors[name].detach() for name in names]):
        # This waits for the device once for many tensors.
        for tensor in to_host(group):
            flat = tensor.resolve_neg().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def _groups(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield lists of tensors with elements, of about 64 MiB: no more lie on the host at a time."""
    group: list[Tensor] = []
    size = 0
    for tensor in tensors:
        size += byte_count(tensor)
        if group and size > _GROUP:
            yield group
            group, size = [], byte_count(tensor)
        if byte_count(tensor):
            group.append(tensor)
    yield group


def is_supported(dtype: torch.dtype) -> bool:
    """Return whether safetensors supports tensors of this type of real numbers."""
    return dtype in _DTYPES


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file.

    Raises:
        CheckpointCorruptedError: It is not a safetensors file, or needs far more memory than its
            size.
        UnsafeCheckpointError: It is pickled data.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    # This comes before parsing: a small file may describe millions of empty tensors.
    if _is_too_large(header, len(content) - len(header), _TENSOR):
        message = f"{path} ({len(content):,} bytes) has more tensors than any checkpoint"
        raise CheckpointCorruptedError(message)
    try:
        return load(content)
    except (
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        RuntimeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        refuse_pickle(content, path)  # after `load`: a valid header may start like a pickle
        message = f"{path} is not a safetensors file: {error}"
        raise CheckpointCorruptedError(message) from error


def json_bytes(value: object) -> bytes:
    """Return a value as JSON.

    Raises:
        CheckpointError: The JSON is so large that `read_json` would refuse it.
    """
    content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    if _is_too_large(content, 0, _DICT):
        message = (
            f"a state needs {len(content):,} bytes of JSON, more than can be read again; keep "
            "numbers in tensors or NumPy arrays instead of lists and bytes"
        )
        raise CheckpointError(message)
    return content


def read_json(content: bytes, path: Path) -> Any:
    """Return the value in the content of a JSON file.

    Raises:
        CheckpointCorruptedError: It is not JSON, or needs far more memory than its size.
        UnsafeCheckpointError: It is pickled data.
    """
    # This comes first, for an error that names the format instead of a syntax error.
    refuse_pickle(content, path)
    if _is_too_large(content, 0, _DICT):
        message = f"{path} ({len(content):,} bytes) has more values than any checkpoint"
        raise CheckpointCorruptedError(message)
    try:
        return json.loads(content.decode("ascii"))  # other characters could take 4 bytes each
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON: {error}"
        raise CheckpointCorruptedError(message) from error


def refuse_pickle(content: bytes, path: Path) -> None:
    """Raise an error if a file is pickled data, whatever its name.

    Raises:
        UnsafeCheckpointError: The file is pickled data.
    """
    if content.startswith(_PICKLE) or content[_TAR] == b"ustar":
        message = (
            f"{path} is pickled data, which can run code when it is read; "
            "KerasModel.load_ckpt(path) reads only the tensors of such a file, into a net"
        )
        raise UnsafeCheckpointError(message)


def _is_too_large(text: bytes, rest: int, table: int) -> bool:
    """Return whether a file could need more memory than twice its size and 64 MiB.

    Args:
        text: The JSON in the file.
        rest: The number of other bytes in the file.
        table: The bytes that each object of the JSON needs in memory.
    """
    needed = (
        4 * len(text)
        + table * text.count(b"{")
        + 200 * text.count(b"[")
        + 45 * text.count(b",")
        + 30 * text.count(b'"')
    )
    return needed + 2 * rest > 2 * (len(text) + rest) + _ALLOWANCE
