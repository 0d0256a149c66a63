"""Dry run: one forward pass of a net without lasting side effects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from fitorch.engine.diagnostics import is_shape_error
from fitorch.errors import ShapeError, annotate
from fitorch.internals.torch import original_module, without_compiled_calls
from fitorch.nets.calls import choose_call
from fitorch.nets.modes import modes_restored
from fitorch.nets.state import buffers_restored
from fitorch.randomness import undisturbed_randomness

from .module_tracer import Call, ModuleTracer


def original_net(net: Any) -> nn.Module:
    """Return the net, the original module of a compiled one, or the net of a `KerasModel`.

    Raises:
        TypeError: `net` is none of these.
    """
    net = net if isinstance(net, nn.Module) else getattr(net, "net", net)
    module = original_module(net) or net
    if not isinstance(module, nn.Module):
        message = f"net is a {type(net).__name__}; expected a torch.nn.Module or a KerasModel"
        raise TypeError(message)
    return module


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Put a net into eval mode, and restore modes, buffers and random generators at the end.

    Lazy layers are an exception: their parameters are initialized from the global generators, as by
    any first batch.
    """
    with ExitStack() as stack:
        # Lazy parameters stay initialized, so the draws of their initialization count.
        if not any(is_lazy(parameter) for parameter in net.parameters()):
            stack.enter_context(undisturbed_randomness())
        stack.enter_context(modes_restored(net))
        stack.enter_context(buffers_restored(net))
        stack.enter_context(without_compiled_calls(net))
        net.eval()
        yield


def dry_run(net: nn.Module, features: Any, tracer: ModuleTracer) -> Any:
    """Call the net with tracing, and return its output.

    Raises:
        ShapeError: A layer rejects the shape of its inputs.
    """
    # The tracer records the innermost call that did not end.
    try:
        with tracer.tracing():
            return choose_call(net, features)(features)
    except Exception as error:
        _locate_error(error, net, tracer.failed)
        raise


def _locate_error(error: Exception, net: nn.Module, failed: Call | None) -> None:
    if failed is None:
        return
    names = {id(module): name for name, module in net.named_modules()}
    path = names.get(id(failed.module)) or "the net"
    where = f"{path} ({type(failed.module).__name__}), which got {failed.inputs}"
    if is_shape_error(error):
        message = f"{error} [in {where}]"
        raise ShapeError(message) from error
    annotate(error, f"in {where}{_embedding_hint(failed)}")


def _embedding_hint(failed: Call) -> str:
    is_embedding = isinstance(failed.module, (nn.Embedding, nn.EmbeddingBag))
    if is_embedding and failed.inputs.startswith(("float", "bfloat")):
        return "; an embedding expects integers: pass them, or input_dtype=torch.long"
    return ""
