"""Consistency checks of ranks before a fit, and the broadcast of its results afterwards."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from fitorch.distributed.processes import Processes
from fitorch.engine.arguments import FitArguments
from fitorch.nets.state import plain_name
from fitorch.optim.several import name_of

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_NOT_COMPARED = ("callbacks", "seed", "verbose")  # compared in another form, or allowed to differ


def check_rank_consistency(
    model: BaseModel, arguments: FitArguments, processes: Processes
) -> FitArguments:
    """Check that all processes fit the same model with the same arguments.

    Returns:
        The arguments, with the seed of rank 0 if none was passed.

    Raises:
        RankError: The processes differ; the message contains the values of each of them.
    """
    if not processes.is_distributed:
        return arguments
    facts: dict[str, Any] = {
        field.name: repr(getattr(arguments, field.name))
        for field in fields(arguments)
        if field.name not in _NOT_COMPARED
    }
    # Without a seed argument each process has drawn its own; the one of rank 0 is used below.
    facts["seed"] = arguments.seed if arguments.seeded else None
    facts["callbacks"] = [type(callback).__name__ for callback in arguments.callbacks]
    # Shapes and dtypes are compared, not values: weights are broadcast later, so they may differ
    # here.
    facts |= {
        f"net.{plain_name(name)}": _form(value) for name, value in model.net.named_parameters()
    }
    facts["weights of the net"] = sum(1 for _ in model.net.parameters())
    facts["optimizer"] = name_of(model.optimizer)
    facts["loss"] = repr(model.objective.name)
    facts["completed epochs"] = model.progress.epochs
    # This is a collective: all processes raise, or none.
    processes.require_equal(facts)
    # Checkpoints carry one run id, and the order of the data follows from one seed: of rank 0.
    # The others wait for rank 0.
    model.run_id = processes.broadcast(model.run_id)
    return replace(arguments, seed=processes.broadcast(arguments.seed))


def broadcast_results(model: BaseModel, processes: Processes) -> None:
    """Broadcast history and weights from rank 0 to all processes."""
    if not processes.is_distributed:
        return
    # Durations and callbacks that ran only on rank 0, as restoring the best weights, may differ.
    # This is a collective, as the two below: all processes come here after a regular end of the
    # fit.
    history = processes.broadcast(model.history.state_dict())
    if not processes.is_main:
        model.history.load_state_dict(history)
    processes.broadcast_module(model.net)
    processes.broadcast_module(model.objective.module)


def _form(value: Tensor) -> object:
    return "lazy" if is_lazy(value) else (tuple(value.shape), value.dtype)
