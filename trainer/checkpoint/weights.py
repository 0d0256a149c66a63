"""A net's weights in files: safetensors, and torch's own format for torchkeras' checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import annotate
from .shards import like

_TORCH = (".pt", ".pth", ".bin")
BEST = "best.safetensors"
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the net that torch.compile, DataParallel or DistributedDataParallel was given."""
    while True:
        inner = getattr(net, "_orig_mod", None)
        if inner is None and isinstance(net, _WRAPPERS):
            inner = net.module
        if inner is None:
            return net
        net = inner


def plain_state(net: nn.Module) -> dict[str, Any]:
    """Return the net's state dict, its names free of what wrappers put before them."""
    return {plain_name(name): value for name, value in unwrapped(net).state_dict().items()}


def load_plain(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state dict into the net, whatever wrapped either of them.

    Raises:
        RuntimeError: Names or shapes differ (torch's own message).
    """
    inner = unwrapped(net)
    table = inner.state_dict()
    own = {plain_name(name): name for name in table}
    plain = {plain_name(name): value for name, value in state.items()}
    if all(name.startswith("module.") and name not in own for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    named = {own.get(name, name): value for name, value in plain.items()}
    inner.load_state_dict({name: like(value, table.get(name)) for name, value in named.items()})


class NetState:
    """A net's state dict with plain names, as a part of a fit's state.

    Args:
        net: The net.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def state_dict(self) -> dict[str, Any]:
        """Return it."""
        return plain_state(self._net)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load one."""
        load_plain(self._net, state)


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        if path.suffix in _TORCH:
            torch.save(dict(state), temporary)
        else:
            _save_safetensors(state, temporary, metadata)
        temporary.chmod(mode)  # safetensors makes files for their owner alone
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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


def plain_name(name: str) -> str:
    """Return a parameter's name without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")


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


def _flush(path: Path) -> None:
    """Wait until the file is on the disk, not only in its cache."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
