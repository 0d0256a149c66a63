"""Add to errors of a step what the user can act on: the batch, the shapes, the module."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fitorch.data.loader import failed_worker_in, worker_failure_message
from fitorch.distributed.dtensor import local_tensor
from fitorch.errors import DataError, NonFiniteError, ShapeError, annotate
from fitorch.losses.shape_checks import MisfitError
from fitorch.metrics.batching import MetricError
from fitorch.tree import describe, leaves

_SHAPES = re.compile(
    r"shape|size|dimension|broadcast|\bdim\b|mat1|mat2|channels|in_features", re.IGNORECASE
)

_DTYPES = re.compile(r"dtype|scalar type|\b(Float|Long|Double|Half|BFloat16|Int)\b")

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
        message = f"{error} in {where}{step.circumstances()}; the batch has not changed the weights"
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
    hints = _dtype_hint(error, batch) + _memory_hint(error) + _probability_hint(error)
    hints += _outputs_hint(error, net)
    annotate(error, f"in {where}: {shapes}{hints}")


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
    lr = ", ".join(f"{rate:g}" for rate in rates)
    return (
        f" (after {updates} updates, lr {lr}{first}{weights}): lower the learning rate, set "
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
    innermost, traceback = "", error.__traceback__
    # Frames become deeper: the last one with a module of the net as `self` is the innermost.
    while traceback is not None:
        module = traceback.tb_frame.f_locals.get("self")
        if id(module) in names and isinstance(module, nn.Module):
            innermost = f"{names[id(module)] or 'the net'} ({type(module).__name__})"
        traceback = traceback.tb_next
    return innermost


def is_shape_error(error: Exception) -> bool:
    """Return whether an error is about shapes of tensors."""
    # Messages about memory and dtypes contain words of shapes too, such as "size" or "mat1".
    if isinstance(error, torch.cuda.OutOfMemoryError) or _DTYPES.search(str(error)):
        return False
    return isinstance(error, (RuntimeError, ValueError, IndexError)) and bool(
        _SHAPES.search(str(error))
    )


def _dtype_hint(error: Exception, batch: object) -> str:
    """Return how to convert the features if the error is about types and they are not float32."""
    if not isinstance(error, RuntimeError) or not _DTYPES.search(str(error)):
        return ""
    first = next(leaves(batch), None)
    if first is None or first.dtype == torch.float32:
        return ""
    return f"; the features are {first.dtype}: pass x.float(), or x.astype('float32')"


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
    if not isinstance(error, torch.cuda.OutOfMemoryError):
        return ""
    peak = torch.cuda.max_memory_allocated() / 2**20
    return (
        f"; peak memory {peak:.0f} MB: use a smaller batch_size with gradient_accumulation_steps, "
        "or mixed_precision='bf16'"
    )
