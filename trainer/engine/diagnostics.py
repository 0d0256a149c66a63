"""Add to errors of a step what the user can act on: the batch, the shapes, the module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fitorch.data.worker_failures import failed_worker_in, worker_failure_message
from fitorch.devices.accelerators import default_device, is_out_of_memory
from fitorch.devices.memory import peak_memory
from fitorch.distributed.dtensor import local_tensor
from fitorch.errors import DataError, NonFiniteError, ShapeError, annotate
from fitorch.losses.shape_checks import MisfitError
from fitorch.metrics.batching import MetricError
from fitorch.nets.forward import features_of
from fitorch.tree import describe, leaves

from .device_asserts import assertion_hint

_SHAPES = re.compile(
    r"shape|size|dimension|broadcast|\bdim\b|mat1|mat2|channels|in_features", re.IGNORECASE
)

# torch writes types in three ways: "expected scalar type Float", "Input type (unsigned char)",
# "input1: double".
_DTYPES = re.compile(
    r"dtype|scalar type|[Ii]nput type|unsigned char|ComplexFloat|c10::"
    r"|\b(Float|Long|Double|Half|BFloat16|Int|Byte|Bool)\b"
)

_METHODS = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat16"}

_LISTS = re.compile(r"must be Tensor, not (list|tuple|int|float)\b")

_TREES = re.compile(
    r"'(dict|tuple|list)' object has no|not (dict|tuple|list)|'(dict|tuple|list)' and"
)


def explain(error: Exception, net: nn.Module, step: Any, batch: Any, where: str) -> None:
    """Raise a more informative error with `error` of a step as its cause, or add a note to it.

    Shapes that the net or the loss rejects become a `ShapeError`, targets that do not fit the loss
    a `DataError`; a `NonFiniteError` gets the circumstances. Other errors keep their type and get
    a note.
    """
    shapes = f"the batch was {describe(step.user_batch(batch))}"
    if isinstance(error, NonFiniteError):
        if error.batches_since is not None:
            raise of_earlier_batch(error, step, where) from error
        # Only steps of training have circumstances.
        found = getattr(step, "circumstances", str)()
        message = f"{error} in {where}{found}; the batch has not changed the weights"
        raise NonFiniteError(message) from error
    # torch reports a dead worker from a signal handler, so the error may surface in any line of the
    # step.
    if died := failed_worker_in(error):
        raise DataError(f"{worker_failure_message(died)} [{where}]") from error
    if isinstance(error, MisfitError):
        raise DataError(f"{error} [{where}: {shapes}]") from error
    if isinstance(error, MetricError):
        annotate(error, f"in {where}: {shapes}")
        return
    if not isinstance(error, DataError) and is_shape_error(error):
        module = module_of(error, net)
        inside = f" in {module}" if module else ""
        raise ShapeError(f"{error} [{where}{inside}: {shapes}]") from error
    user_batch = step.user_batch(batch)
    hints = _dtype_hint(error, net, user_batch) + _memory_hint(error) + _probability_hint(error)
    hints += _outputs_hint(error, net) + _gradient_hint(error) + _batch_hint(error, user_batch)
    hints += assertion_hint(error, step)
    annotate(error, f"in {where}: {shapes}{hints}")


def of_earlier_batch(error: NonFiniteError, step: Any, where: str) -> NonFiniteError:
    """Return an error with the batch whose loss was the first that is not finite.

    Args:
        error: The error, with the number of batches since that one.
        step: The step of training.
        where: Where the loss was read, as "epoch 1, training batch 3", or "epoch 1" at its end.
    """
    assert error.batches_since is not None
    epoch, _, current = where.partition(", ")
    batch = step.model.run.iterator.taken - error.batches_since
    place = f"{epoch}, training batch {batch + 1}{step.circumstances(batch)}"
    read = current or "the end of the epoch"
    earlier = NonFiniteError(f"{error} in {place}; the loss was read at {read}")
    earlier.batches_since = error.batches_since
    return earlier


def circumstances(
    net: nn.Module, rates: list[float], updates: int, samples: list[int], window: int = 1
) -> str:
    """Return text that helps to find the cause of a loss or a gradient that is not finite."""
    # This waits for the device once per parameter, after training has failed. Each process looks at
    # its own shards: a collective could wait for processes that have not failed.
    weights = _not_finite("weights", ((name, p.detach()) for name, p in net.named_parameters()))
    gradients = ((name, p.grad) for name, p in net.named_parameters() if p.grad is not None)
    weights += _not_finite("gradients", gradients)
    weights += f"; the update is one of {window} batches" if window > 1 else ""
    first = f"; first samples {samples}" if samples else ""
    lr = f", lr {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""
    return (
        f" (after {updates} updates{lr}{first}{weights}): lower the learning rate, set "
        "clip_grad_norm, or look for NaN in the data"
    )


def _not_finite(what: str, named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return text with the names of the tensors that are not finite, empty if all are."""
    broken = [name for name, tensor in named if not _is_finite(local_tensor(tensor))]
    listed = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
    return f"; {what} that are not finite: {listed}" if broken else ""


def _is_finite(tensor: torch.Tensor) -> bool:
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return bool(values.isfinite().all())


def module_of(error: BaseException, net: nn.Module) -> str:
    """Return the path and class of the innermost module of `net` that raised `error`."""
    names = {id(module): name for name, module in net.named_modules()}
    inside = [module for module in _modules_in(error) if id(module) in names]
    if not inside:
        return ""
    return f"{names[id(inside[-1])] or 'the net'} ({type(inside[-1]).__name__})"


def is_shape_error(error: Exception) -> bool:
    """Return whether an error is about shapes of tensors."""
    # Messages about memory and dtypes contain words of shapes too, such as "size" or "mat1".
    if is_out_of_memory(error) or _DTYPES.search(str(error)):
        return False
    return isinstance(error, (RuntimeError, ValueError, IndexError)) and bool(
        _SHAPES.search(str(error))
    )


def lacks_gradients(error: BaseException) -> bool:
    """Return whether an error of autograd says that a tensor does not require gradients."""
    return isinstance(error, RuntimeError) and "does not require grad" in str(error)


def _modules_in(error: BaseException) -> Iterator[nn.Module]:
    """Yield the modules whose methods raised an error, the outermost first."""
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            yield module
        traceback = traceback.tb_next


def _dtype_hint(error: Exception, net: nn.Module, batch: Any) -> str:
    """Return how to convert what differs from the net if the error is about types."""
    if not isinstance(error, RuntimeError) or not _DTYPES.search(str(error)):
        return ""
    if "indices" in str(error):
        return "; an embedding takes indices: pass x.long(), or x.astype('int64')"
    floats = (p.dtype for p in net.parameters() if p.is_floating_point() or p.is_complex())
    expected = next(floats, torch.float32)
    name = str(expected).removeprefix("torch.")
    method = f"{_METHODS[name]}()" if name in _METHODS else f"to({expected})"
    numpy = "" if name == "bfloat16" else f", or {{}}.astype('{name}')"
    for what, variable, tensors in _parts(error, net, batch):
        others = sorted({str(tensor.dtype) for tensor in tensors if tensor.dtype != expected})
        if any(tensor.is_complex() for tensor in tensors) and not expected.is_complex:
            way = f"layers of dtype=torch.complex64, or torch.view_as_real({variable})"
            return f"; {what} complex: use {way}"
        if others:
            way = f"{variable}.{method}{numpy.format(variable)}"
            return f"; {what} {', '.join(others)}: pass {way}"
    return ""


def _parts(
    error: Exception, net: nn.Module, batch: Any
) -> Iterator[tuple[str, str, list[torch.Tensor]]]:
    """Yield what may have another type than the net: weights of a loss, features, targets."""
    of_net = set(net.modules())
    for module in [m for m in _modules_in(error) if m not in of_net][-1:]:
        for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
            yield f"{name} of {type(module).__name__} is", name, [tensor]
    yield "the features are", "x", list(leaves(features_of(batch)))
    targets: Any = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        targets = batch[1]
    yield "the targets are", "y", list(leaves(targets))


def _batch_hint(error: Exception, batch: Any) -> str:
    """Return what a batch should have been if parts of it are None, or lists of numbers."""
    if isinstance(error, DataError):
        return ""
    if isinstance(batch, (tuple, list)) and any(part is None for part in batch):
        return "; a part of the batch is None: pass tensors, or forward= for batches of this form"
    if isinstance(error, TypeError) and _LISTS.search(str(error)):
        return (
            "; the features hold lists: make tensors of them in the Dataset or collate_fn, padded "
            "to one length (torch.nn.utils.rnn.pad_sequence)"
        )
    return ""


def _gradient_hint(error: Exception) -> str:
    """Return how a net can differentiate its output."""
    if not lacks_gradients(error):
        return ""
    return (
        "; a net that differentiates its output needs `with torch.enable_grad():` in forward, and "
        "x.requires_grad_()"
    )


def _probability_hint(error: Exception) -> str:
    """Return what BCELoss expects if it receives logits in a later batch than the first."""
    if "should be between 0 and 1" not in str(error):
        return ""
    return "; BCELoss needs probabilities: use nn.BCEWithLogitsLoss, or end the net with nn.Sigmoid"


def _outputs_hint(error: Exception, net: nn.Module) -> str:
    """Return how to pass several losses if one loss received all outputs of the net at once."""
    match = isinstance(error, (AttributeError, TypeError)) and _TREES.search(str(error))
    if not match or module_of(error, net):
        return ""
    return (
        f"; the loss got a {next(filter(None, match.groups()))}: pass one loss for each output of "
        "the net, loss_fn={'name': loss} or [loss, ...]"
    )


def _memory_hint(error: Exception) -> str:
    if not is_out_of_memory(error):
        return ""
    peak = peak_memory(default_device())
    known = "" if peak is None else f"peak memory {peak / 2**20:.0f} MB: "
    return (
        f"; {known}use a smaller batch_size with gradient_accumulation_steps, "
        "mixed_precision='bf16', or KerasModel(data_on_device=False) for data in memory"
    )
