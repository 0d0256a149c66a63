"""A net's weights in files: safetensors, and torch's own format for torchkeras' checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.errors import annotate
from fitorch.files import replacing
from fitorch.nets.state import load_plain

_TORCH = (".pt", ".pth", ".bin")

BEST = "best.safetensors"


def file_of(path: str | Path) -> Path:
    """Return the file of weights that a path stands for: itself, or the best in a folder."""
    path = Path(path)
    return path / BEST if path.is_dir() else path


def save_weights(
    state: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a state dict to `path`, which is replaced only once all is written.

    `.pt`, `.pth` and `.bin` give torch's format, any other name safetensors; a folder gets a
    `best.safetensors`. Both load in plain torch: `net.load_state_dict(load_file(path))`.

    Returns:
        The file.

    Raises:
        TypeError: The state dict holds something that is no tensor.
    """
    path = file_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        if path.suffix in _TORCH:
            torch.save(dict(state), temporary)
        else:
            _save_safetensors(state, temporary, metadata)
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
    return path


def load_weights(net: nn.Module, path: str | Path) -> Path:
    """Load a file of `save_weights`, or a torch state dict, into the net, on its device.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is none; the message names the weights beside it.
        RuntimeError: Names or shapes differ (torch's own message, with the file's name).
    """
    path = file_of(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        listed = f"; {path.parent} holds {', '.join(beside[:5]) or 'nothing'}"
        message = f"no weights at {path} ({path.absolute()}){listed}"
        raise FileNotFoundError(message)
    state = _load(path)
    try:
        load_plain(net, state)
    except (RuntimeError, TypeError) as error:
        annotate(error, f"while loading {path}")
        raise
    return path


def metadata_of(path: Path) -> dict[str, str]:
    """Return what a safetensors file tells beside its tensors; nothing where it can't be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _load(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError:
        if path.suffix == ".safetensors":
            raise
    return torch.load(path, map_location="cpu", weights_only=True)


def _save_safetensors(
    state: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None
) -> None:
    from safetensors.torch import save_file

    odd = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        message = (
            f"the net's state dict holds {odd!r}, a {type(state[odd]).__name__}, which safetensors "
            "can't store; save to a .pt file"
        )
        raise TypeError(message)
    save_file(_unshared(state), path, metadata=dict(metadata or {}))


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tied weights a copy each: safetensors refuses shared memory, torch loads both."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = value.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return tensors
