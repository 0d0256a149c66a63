"""A training step compiled as one region: forward, objective, backward, clipping, optimizer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.devices.capabilities import records_graphs
from fitorch.internals.torch import (
    can_trace_backward,
    compile_error,
    has_gradient_hooks,
    has_step_hooks,
    tracing_options,
)
from fitorch.losses.objective import Objective
from fitorch.losses.terms import TermValue
from fitorch.metrics.batching import detached
from fitorch.optim.schedulers import schedules_of
from fitorch.optim.several import members_of
from fitorch.optim.update import Update
from fitorch.tree import map_tensors

from .compiled_optimizer import CannotCompileError, CompiledOptimizers

Outcome = tuple[Any, Any, Any, list[TermValue], "Tensor | None"]  # ..., the gradients' norm

_BACKEND = "inductor"  # of torch.compile

_OPTIONS = {
    "fallback_random": True,  # the same random numbers as without compilation, as in dropout
    "size_asserts": False,  # batches are known to be alike
}

_TRACING = {
    "trace_autograd_ops": True,  # the backward pass, too
    "automatic_dynamic_shapes": False,  # a number that changes causes another compilation
}


class CompiledRegion:
    """A training step that is compiled at its first call.

    It changes the weights, the gradients and the state of the user's optimizer in place, so they
    have the same values as without compilation. All batches must have the same structure, shapes
    and types.

    Args:
        forward: Returns predictions, targets and sample weights of a batch.
        weigh: Returns the weights of the samples in the loss, from targets and sample weights.
        objective: The loss of a batch.
        update: Changes the weights; it has run once uncompiled, so that gradients and the state of
            the optimizer exist.
        batch: A batch with the structure, shapes and types of all others.

    Raises:
        CannotCompileError: The step cannot be compiled; the message contains the reason.
    """

    def __init__(
        self,
        forward: Callable[[Any], tuple[Any, Any, Any]],
        weigh: Callable[[Any, Any], Any],
        objective: Objective,
        update: Update,
        batch: Any,
    ) -> None:
        _check_compilable(update)
        self.seconds = 0.0  # the time that compiling took
        self._signature = signature(batch)
        # Parameters without a gradient do not take part in the loss, or are frozen.
        self._trained = [p for p in update.parameters if p.grad is not None]
        self._gradients = [p.grad for p in self._trained]
        self._optimizer = CompiledOptimizers(update.optimizer)
        # Graphs record the addresses of all tensors, so gradients and state stay in place.
        self._graphs = records_graphs(self._trained[0].device)
        self._compiled = _compile(
            _step_function(forward, weigh, objective, update, self._optimizer, self._trained),
            graphs=self._graphs,
        )
        self._ready = False
        self._refusal = compile_error()

    @property
    def stale(self) -> bool:
        """Whether the state of the optimizer was replaced, as `load_state_dict` does."""
        return self._optimizer.stale

    def takes(self, batch: Any) -> bool:
        """Return whether a batch has the structure, shapes and types of the compiled ones."""
        return bool(signature(batch) == self._signature)

    def __call__(self, batch: Any) -> Outcome:
        """Train on a batch; the first call compiles.

        Raises:
            CannotCompileError: Torch cannot compile the step; nothing was changed.
        """
        self._optimizer.copy_rates()
        if self._trained[0].grad is not self._gradients[0]:  # the last step was not compiled
            self._optimizer.copy_step_counts()
            # The compiled code writes into the first gradients; uncompiled steps have replaced
            # them.
            for parameter, gradient in zip(self._trained, self._gradients, strict=True):
                parameter.grad = gradient
        # Gradients are enabled within the step, for the forward pass alone.
        with torch.no_grad():
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            outcome = self._run(batch) if self._ready else self._compiling(batch)
            if self._graphs:  # the next run of a CUDA graph overwrites its outputs
                outcome = map_tensors(Tensor.clone, outcome)
        # This is outside of the region, because these counts lie on the CPU, as those of most
        # optimizers do.
        self._optimizer.count()
        return outcome

    def _run(self, batch: Any) -> Outcome:
        try:
            return self._compiled(batch)
        except self._refusal:  # the step must be compiled again, as for another number
            return self._compiling(batch)

    def _compiling(self, batch: Any) -> Outcome:
        start = time.perf_counter()
        try:
            with tracing_options(**_TRACING), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # from within torch
                outcome = self._compiled(batch)
        except self._refusal as error:
            raise CannotCompileError(_first_lines(error)) from error
        self.seconds, self._ready = time.perf_counter() - start, True
        return outcome


def signature(tree: Any) -> Any:
    """Return the structure, shapes and types of a batch, which must equal those of the others."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    if isinstance(tree, (list, tuple)):
        return [signature(part) for part in tree]
    if isinstance(tree, Mapping):
        return {key: signature(part) for key, part in tree.items()}
    return tree


def _check_compilable(update: Update) -> None:
    """Raise an error if a compiled step would not do all that the uncompiled one does.

    Raises:
        CannotCompileError: The message contains the reason.
    """
    optimizer = update.optimizer
    parameters = update.parameters
    gradients = [p.grad for p in parameters if p.grad is not None]
    reasons = {
        "mixed precision with a gradient scaler": update.scaler is not None,
        "hooks on the optimizer": any(
            map(has_step_hooks, [optimizer, *members_of(optimizer).values()])
        ),
        "a schedule that changes the momentum with each step; pass it cycle_momentum=False": (
            any(getattr(s, "cycle_momentum", False) for s in schedules_of(update.scheduler))
        ),
        "an optimizer that counts its steps in a Python number": any(
            isinstance(state.get("step"), (int, float)) for state in optimizer.state.values()
        ),
        "hooks on parameters": any(map(has_gradient_hooks, parameters)),
        "sparse gradients": any(gradient.layout is not torch.strided for gradient in gradients),
        f"torch {torch.__version__}, older than 2.13": not can_trace_backward(),
    }
    for reason, holds in reasons.items():
        if holds:
            raise CannotCompileError(reason)


def _step_function(
    forward: Callable[[Any], tuple[Any, Any, Any]],
    weigh: Callable[[Any, Any], Any],
    objective: Objective,
    update: Update,
    optimizer: CompiledOptimizers,
    trained: Sequence[nn.Parameter],
) -> Callable[[Any], Outcome]:
    """Return the step as one function, which torch traces."""

    def step(batch: Any) -> Outcome:
        # The step begins with forward pass and objective.
        with torch.enable_grad():
            y_pred, y_true, weight = forward(batch)
            parts = objective.compare(y_pred, y_true, weigh(y_true, weight), batch)
            # The backward pass is functional, because the gradients must keep their addresses.
            gradients = torch.autograd.grad(objective.total(parts), trained)
        parts = [(value.detach(), share) for value, share in parts]
        # The penalties are only measured here, with the weights before the update, as in an
        # uncompiled step; their gradients are added in `shape_gradients`.
        parts += objective.penalize(parts)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad.copy_(gradient)  # type: ignore[union-attr]
        # Penalties, clipping and update follow in the order of `Update`.
        norm = update.shape_gradients()
        optimizer.step()
        return detached(y_pred), y_true, weight, parts, norm

    # Torch caches compiled code by code object, a limited number for each: each step needs its own.
    step.__code__ = step.__code__.replace(co_name=f"step_{id(optimizer)}")
    return step


def _compile(function: Callable[[Any], Outcome], *, graphs: bool) -> Callable[[Any], Outcome]:
    options: dict[str, Any] | None = None
    if _BACKEND == "inductor":
        options = {**_OPTIONS, "triton.cudagraphs": graphs}
    return torch.compile(function, fullgraph=True, backend=_BACKEND, options=options)


def _first_lines(error: Exception) -> str:
    """Return the first two lines of torch's message: the reason, and the user's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
