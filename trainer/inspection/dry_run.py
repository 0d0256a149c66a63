"""One forward pass to look at, after which everything is as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fitorch.engine.diagnostics import is_shape_error
from fitorch.errors import ShapeError, annotate
from fitorch.internals.torch import original_module, without_compiled_calls
from fitorch.nets.forward import choose_call
from fitorch.nets.modes import modes_restored
from fitorch.randomness import undisturbed_randomness

from .module_tracer import Call, Recorder


def plain(net: Any) -> nn.Module:
    """Return the module behind what torch.compile gave.

    Raises:
        TypeError: It is no module.
    """
    found = original_module(net) or net
    if not isinstance(found, nn.Module):
        message = f"net is a {type(net).__name__}; expected a torch.nn.Module"
        raise TypeError(message)
    return found


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Run a net in eval mode; put modes, buffers and random generators back, whatever happens.

    Lazy layers are the exception: they get their parameters, drawn from the global generators, as
    from any first batch.
    """
    with ExitStack() as stack:
        if not any(is_lazy(parameter) for parameter in net.parameters()):
            stack.enter_context(undisturbed_randomness())
        stack.enter_context(modes_restored(net))
        stack.callback(_buffers(net))
        stack.enter_context(without_compiled_calls(net))
        net.eval()
        yield


def try_out(net: nn.Module, features: Any, recorder: Recorder) -> Any:
    """Call the net under a recorder's eyes; return what it gives.

    Raises:
        ShapeError: A layer rejects the shape of what it gets; it says which layer, and what.
    """
    try:
        with recorder.watching():
            return choose_call(net, features)(features)
    except Exception as error:
        _explain(error, net, recorder.failed)
        raise


def _explain(error: Exception, net: nn.Module, failed: Call | None) -> None:
    if failed is None:
        return
    names = {id(module): name for name, module in net.named_modules()}
    path = names.get(id(failed.module)) or "the net"
    where = f"{path} ({type(failed.module).__name__}), which got {failed.got}"
    if is_shape_error(error):
        message = f"{error} [in {where}]"
        raise ShapeError(message) from error
    annotate(error, f"in {where}{_hint(failed)}")


def _hint(failed: Call) -> str:
    wants_numbers = isinstance(failed.module, (nn.Embedding, nn.EmbeddingBag))
    if wants_numbers and failed.got.startswith(("float", "bfloat")):
        return "; an embedding takes whole numbers: pass them, or input_dtype=torch.long"
    return ""


def _buffers(net: nn.Module) -> Callable[[], None]:
    """Return what puts the buffers back, in their values and as the objects that they are."""
    saved = [
        (module._buffers, name, buffer, buffer.clone())
        for module in net.modules()
        for name, buffer in module._buffers.items()
        if isinstance(buffer, Tensor) and not is_lazy(buffer)
    ]

    def restore() -> None:
        for buffers, name, buffer, before in saved:
            buffers[name] = buffer
            if buffer.is_meta or torch.equal(buffer, before):
                continue
            with torch.no_grad():
                buffer.copy_(before)

    return restore
