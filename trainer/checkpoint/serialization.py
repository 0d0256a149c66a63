"""What the files of checkpoints hold: safetensors, and JSON that takes little memory to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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

_PICKLE = (b"\x80", b"PK\x03\x04")  # protocol 2 and later; the zip archives of torch.save

_TAR = slice(257, 262)  # where a tar archive, torch.save's oldest form, says "ustar"

_ROOM = 2**26  # bytes that what is read may take beside twice its size

_DICT = 400  # bytes that an object takes, parsed and decoded: measured, as all in _is_too_large

_TENSOR = 900  # bytes that a tensor without numbers takes, beside its entry's text


def tensor_parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Bytes]:
    """Give the parts of a safetensors file, one tensor after the other: no copy of all is made.

    Writing 500 MB and their digest takes half the time that safetensors' own `save_file` and
    reading the file again take. The largest numbers come first, so that all are aligned: the order
    of names is not kept.

    Raises:
        CheckpointError: They are so many and so small that `read_tensors` would refuse them.

    Source: https://huggingface.co/docs/safetensors, section "Format".
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + byte_count(tensor)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    if _is_too_large(text, end, _TENSOR):
        message = f"{len(names):,} tensors are too many small ones to be read back; join them"
        raise CheckpointError(message)
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        if byte_count(tensors[name]):
            flat = tensors[name].detach().cpu().resolve_neg().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def holds(dtype: torch.dtype) -> bool:
    """Say whether a safetensors file can hold tensors of real numbers of this type."""
    return dtype in _DTYPES


def read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file.

    Raises:
        CheckpointCorruptedError: It is none, or would take far more memory than its size.
        UnsafeCheckpointError: It is pickled data.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if _is_too_large(header, len(content) - len(header), _TENSOR):
        message = f"{path} ({len(content):,} bytes) holds more tensors than any checkpoint does"
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
        refuse_pickle(content, path)  # only now: a header may be as long as a pickle's first byte
        message = f"{path} is no safetensors file: {error}"
        raise CheckpointCorruptedError(message) from error


def json_bytes(value: Any) -> bytes:
    """Return JSON for a value.

    Raises:
        CheckpointError: It is so large that `read_json` would refuse it.
    """
    content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    if _is_too_large(content, 0, _DICT):
        message = (
            f"a state gives {len(content):,} bytes of JSON, too much to be read back; keep "
            "numbers in tensors or NumPy arrays instead of lists and bytes"
        )
        raise CheckpointError(message)
    return content


def read_json(content: bytes, path: Path) -> Any:
    """Return the value in the content of a JSON file.

    Raises:
        CheckpointCorruptedError: It is no JSON, or would take far more memory than its size.
        UnsafeCheckpointError: It is pickled data.
    """
    refuse_pickle(content, path)
    if _is_too_large(content, 0, _DICT):
        message = f"{path} ({len(content):,} bytes) holds more values than any checkpoint does"
        raise CheckpointCorruptedError(message)
    try:
        return json.loads(content.decode("ascii"))  # of other characters, each could take 4 bytes
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON: {error}"
        raise CheckpointCorruptedError(message) from error


def refuse_pickle(content: bytes, path: Path) -> None:
    """Refuse pickled data, whatever its name.

    Raises:
        UnsafeCheckpointError: It is that.
    """
    if content.startswith(_PICKLE) or content[_TAR] == b"ustar":
        message = (
            f"{path} holds pickled data, which can run code when it is read; weights in such a "
            "file are read by KerasModel.load_ckpt(path), into a net, as tensors alone"
        )
        raise UnsafeCheckpointError(message)


def _is_too_large(text: bytes, rest: int, table: int) -> bool:
    """Say whether what JSON describes could take more than twice its file's size and 64 MB.

    Args:
        text: The JSON.
        rest: The bytes in the file that are none.
        table: What an object in it takes, in bytes.
    """
    taken = (
        4 * len(text)
        + table * text.count(b"{")
        + 200 * text.count(b"[")
        + 45 * text.count(b",")
        + 30 * text.count(b'"')
    )
    return taken + 2 * rest > 2 * (len(text) + rest) + _ROOM
