"""A trained net as a file that runs without its code: torch.export, ONNX; or its weights alone."""

from __future__ import annotations

import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch import files as disk
from fitorch.distributed.fsdp import is_sharded
from fitorch.errors import ExportError
from fitorch.nets.state import unwrapped
from fitorch.tree import leaves, map_tensors, sample_count

from .dry_run import try_out, undisturbed
from .example_inputs import first_features
from .module_tracer import Recorder

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_LONGEST = 300  # characters of a reason

_ONNX = "pip install onnx onnxscript"

_SIGNS = {  # of what torch found wrong, in the user's words
    "onstraints violated": "its code depends on the number of samples, as x.view(32, -1) does",
    "ata-dependent": "its code asks for the values of tensors, as .item() or `if x.sum() > 0` does",
}

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def export(model: BaseModel, path: str | Path, features: Any) -> Path:
    """Write a net to a file; see `KerasModel.export`."""
    path = Path(path)
    if path.suffix not in _WAYS:
        known = ", ".join([*_WAYS, ".safetensors"])
        message = f"export can't tell the format of {path}; expected a name that ends in {known}"
        raise ValueError(message)
    if features is None:
        message = f"{path.suffix} needs a batch of features to follow through the net; pass them"
        raise ValueError(message)
    net = unwrapped(model.net)
    if is_sharded(net):
        message = (
            "the net is spread over processes; export its weights to a .safetensors file, load "
            "them in one process, and export there"
        )
        raise ValueError(message)
    if model.is_main_process:
        content = _WAYS[path.suffix](net, features)
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, content)
    return path


def _to_pt2(net: nn.Module, features: Any) -> bytes:
    with _exported(net, features) as program:
        file = io.BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


def _to_onnx(net: nn.Module, features: Any) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        message = f"an .onnx file needs onnx and onnxscript: {_ONNX}"
        raise ImportError(message) from error
    to_onnx: Any = torch.onnx.export
    if "dynamic_shapes" not in inspect.signature(to_onnx).parameters:
        message = f"an .onnx file needs torch 2.6 or later, but this is {torch.__version__}"
        raise ExportError(message)
    with _exported(net, features) as exported:
        program = to_onnx(exported, dynamo=True, verbose=False)
        file = io.BytesIO()
        program.save(file)
    return file.getvalue()


_WAYS: Mapping[str, Callable[[nn.Module, Any], bytes]] = {".pt2": _to_pt2, ".onnx": _to_onnx}


@contextmanager
def _exported(net: nn.Module, features: Any) -> Iterator[Any]:
    """Give the net in eval mode on the CPU as torch.export has it, for any number of samples.

    Raises:
        ExportError: It can't be had, or what follows fails.
    """
    with _on_cpu(net), undisturbed(net), torch.no_grad(), warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):  # torch's, about itself
            warnings.simplefilter("ignore", kind)
        batch = _of_two(first_features(net, features))
        try_out(net, batch, Recorder(net))  # it names the layer that a wrong shape is for
        samples = sample_count(batch)
        size = torch.export.Dim("batch")

        def free(tensor: Tensor) -> dict[int, Any]:
            return {0: size} if tensor.dim() and tensor.shape[0] == samples else {}

        by_name = isinstance(batch, Mapping)
        several = isinstance(batch, (tuple, list))
        inputs: Any = dict(batch) if by_name else tuple(batch) if several else (batch,)
        args, kwargs = ((), inputs) if by_name else (inputs, None)
        shapes = map_tensors(free, inputs)
        try:
            yield torch.export.export(net, args, kwargs, dynamic_shapes=shapes)
        except Exception as error:
            message = f"{type(net).__name__} can't be exported: {_reason(error)}"
            raise ExportError(message) from error


def _of_two(features: Any) -> Any:
    """Return a batch of two samples or more: one alone would be taken for the only size."""
    if sample_count(features) > 1:
        return features
    return map_tensors(
        lambda tensor: torch.cat([tensor, tensor]) if tensor.dim() else tensor, features
    )


@contextmanager
def _on_cpu(net: nn.Module) -> Iterator[None]:
    devices = {tensor.device for tensor in leaves([*net.parameters(), *net.buffers()])}
    elsewhere = devices - {torch.device("cpu")}
    if elsewhere:
        net.to("cpu")
    try:
        yield
    finally:
        if elsewhere:
            net.to(elsewhere.pop())


def _reason(error: BaseException) -> str:
    """Return the first sentence of what went wrong at first."""
    told = [_COLOURS.sub("", str(each)).strip() for each in _causes(error)]
    text = next((each for each in reversed(told) if each), type(error).__name__)
    for sign, meaning in _SIGNS.items():
        if sign in text:
            return f"{meaning} ({_first(text).rstrip('.')})"
    return _first(text)


def _first(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.split(r"(?<=[.!?])\s", line)[0][:_LONGEST]


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
