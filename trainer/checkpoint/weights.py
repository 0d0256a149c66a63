"""Files of weights: safetensors, and torch's own format, which torchkeras uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.devices.copies import to_host
from fitorch.errors import annotate
from fitorch.files import replacing
from fitorch.nets.state import load_plain

_TORCH = (".pt", ".pth", ".bin")

BEST = "best.safetensors"


def file_of(path: str | Path) -> Path:
    """Return the file of weights at a path, or the best weights of the run at that path."""
    path = Path(path)
    return path / BEST if path.is_dir() else path


def save_weights(
    state: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a state dict to `path`, replacing an old file only once all is written.

    Files ending in `.pt`, `.pth` and `.bin` have torch's format, all others are safetensors; in a
    folder the file is `best.safetensors`. Plain torch loads both:
    `net.load_state_dict(load_file(path))`.

    Returns:
        The file.

    Raises:
        TypeError: A value of the state dict is not a tensor, and the format is safetensors.
    """
    path = file_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.touch()
        # An empty file shows the mode that the umask gives to new files.
        mode = temporary.stat().st_mode
        if path.suffix in _TORCH:
            # Tensors of a device load only where there is one.
            torch.save(_on_host(state), temporary)
        else:
            _save_safetensors(state, temporary, metadata)
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
    return path


def load_weights(net: nn.Module, path: str | Path) -> Path:
    """Load a file of `save_weights`, or a torch state dict, into the net on its device.

    Returns:
        The file.

    Raises:
        FileNotFoundError: The file does not exist; the message names other files in its folder.
        RuntimeError: Names or shapes differ (torch's message, with the path of the file).
    """
    path = file_of(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        listed = f"; {path.parent} contains {', '.join(beside[:5]) or 'nothing'}"
        message = f"no weights at {path} ({path.absolute()}){listed}"
        raise FileNotFoundError(message)
    state = _load(path)
    try:
        load_plain(net, state)
    except (RuntimeError, TypeError) as error:
        annotate(error, f"while loading {path}")
        raise
    return path


def _on_host(state: Mapping[str, Any]) -> dict[str, Any]:
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    copies = iter(to_host(tensors))
    return {
        name: next(copies) if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, {} if it is not readable."""
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
        # The content decides, not the suffix: any file may be safetensors.
        return load_file(path)
    except SafetensorError:
        if path.suffix == ".safetensors":
            raise
    # Any other name may be torch's format; weights_only refuses pickled code.
    return torch.load(path, map_location="cpu", weights_only=True)


def check_storable(state: Mapping[str, Any]) -> None:
    """Check that safetensors can store a state dict.

    Raises:
        TypeError: A value is not a tensor.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            message = (
                f"{name!r} in the state dict is a {type(value).__name__}, which safetensors cannot "
                "store; save to a .pt file"
            )
            raise TypeError(message)


def _save_safetensors(
    state: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None
) -> None:
    from safetensors.torch import save_file

    check_storable(state)
    save_file(_unshared(state), path, metadata=dict(metadata or {}))


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict whose tied weights are copies: safetensors refuses shared memory."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        # safetensors stores elements in order, without strides.
        tensor = value.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()  # a tied weight has that of another
        tensors[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return tensors
