"""Export of a trained net to a file that runs without its code: torch.export or ONNX."""

from __future__ import annotations

import copy
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
from fitorch.devices.accelerators import HOST
from fitorch.devices.modules import moves_in_place
from fitorch.distributed.fsdp import is_sharded
from fitorch.errors import ExportError
from fitorch.nets.state import unwrapped
from fitorch.tree import leaves, map_tensors, sample_count

from .dry_run import dry_run, undisturbed
from .example_inputs import features_from_data
from .module_tracer import ModuleTracer

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_MAX_REASON_LENGTH = 300  # characters

_ONNX = "pip install onnx onnxscript"

_EXPLANATIONS = {  # of parts of torch's messages
    "onstraints violated": "its code depends on the number of samples, as x.view(32, -1) does",
    "ata-dependent": "its code reads the values of tensors, as .item() or `if x.sum() > 0` does",
}

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def export(model: BaseModel, path: str | Path, features: Any) -> Path:
    """Export a net to a file; see `KerasModel.export`."""
    path = Path(path)
    if path.suffix not in _EXPORTERS:
        known = ", ".join([*_EXPORTERS, ".safetensors"])
        message = f"export does not support the format of {path}; use one of the suffixes {known}"
        raise ValueError(message)
    if features is None:
        message = f"{path.suffix} needs a batch of features to trace the net; pass features"
        raise ValueError(message)
    net = unwrapped(model.net)
    if is_sharded(net):
        message = (
            "the net is sharded over processes; export its weights to a .safetensors file, load "
            "them in one process, and export there"
        )
        raise ValueError(message)
    # One process writes; the others have the same weights.
    if model.is_main_process:
        content = _EXPORTERS[path.suffix](net, features)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The old file stays until the new one is complete.
        disk.replace(path, content)
    return path


def _to_pt2(net: nn.Module, features: Any) -> bytes:
    with _exported_program(net, features) as program:
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
    with _exported_program(net, features) as exported:
        program = to_onnx(exported, dynamo=True, verbose=False)
        file = io.BytesIO()
        program.save(file)
    return file.getvalue()


_EXPORTERS: Mapping[str, Callable[[nn.Module, Any], bytes]] = {".pt2": _to_pt2, ".onnx": _to_onnx}


@contextmanager
def _exported_program(net: nn.Module, features: Any) -> Iterator[Any]:
    """Yield the program that torch.export returns for the net on the CPU, for any batch size.

    Raises:
        ExportError: The net cannot be exported, or the body of the context fails.
    """
    with _on_cpu(net) as net, undisturbed(net), torch.no_grad(), warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):  # of torch's own code
            warnings.simplefilter("ignore", category)
        batch = _at_least_two_samples(features_from_data(net, features))
        dry_run(net, batch, ModuleTracer(net))  # its error names the layer of a wrong shape
        samples = sample_count(batch)
        size = torch.export.Dim("batch")

        # Dimensions of the size of the batch vary with it; others are fixed.
        def free(tensor: Tensor) -> dict[int, Any]:
            return {0: size} if tensor.dim() and tensor.shape[0] == samples else {}

        by_name = isinstance(batch, Mapping)
        several = isinstance(batch, (tuple, list))
        inputs: Any = dict(batch) if by_name else tuple(batch) if several else (batch,)
        args, kwargs = ((), inputs) if by_name else (inputs, None)
        shapes = map_tensors(free, inputs)
        try:
            # Errors of saving, in the body of the context, are errors of the export too.
            yield torch.export.export(net, args, kwargs, dynamic_shapes=shapes)
        except Exception as error:
            message = f"{type(net).__name__} cannot be exported: {_root_cause(error)}"
            raise ExportError(message) from error


def _at_least_two_samples(features: Any) -> Any:
    """Return a batch of two samples or more: torch.export would specialize on a size of 1."""
    if sample_count(features) > 1:
        return features
    return map_tensors(
        lambda tensor: torch.cat([tensor, tensor]) if tensor.dim() else tensor, features
    )


@contextmanager
def _on_cpu(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the net on the CPU; where moving it replaces its parameters, a copy of it."""
    devices = {tensor.device for tensor in leaves([*net.parameters(), *net.buffers()])}
    elsewhere = devices - {HOST}
    if not elsewhere:
        yield net
        return
    if not moves_in_place(net, HOST):
        yield copy.deepcopy(net).to(HOST)
        return
    net.to(HOST)
    try:
        yield net
    finally:
        # The optimizer expects the parameters there.
        net.to(elsewhere.pop())


def _root_cause(error: BaseException) -> str:
    """Return the first sentence of the error that caused all others, with an explanation."""
    # The causes go from the outside to the inside: the last one has caused all others.
    texts = [_COLOURS.sub("", str(cause)).strip() for cause in _causes(error)]
    text = next((text for text in reversed(texts) if text), type(error).__name__)
    for pattern, explanation in _EXPLANATIONS.items():
        if pattern in text:
            return f"{explanation} ({_first_sentence(text).rstrip('.')})"
    return _first_sentence(text)


def _first_sentence(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.split(r"(?<=[.!?])\s", line)[0][:_MAX_REASON_LENGTH]


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
