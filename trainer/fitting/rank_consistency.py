"""What is done once in a fit because there are several processes: before it, and after it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch.nn.parameter import is_lazy

from fitorch.distributed.processes import Processes
from fitorch.engine.arguments import FitArguments
from fitorch.nets.state import plain_name

if TYPE_CHECKING:
    from fitorch.engine.base_model import BaseModel


_OWN = ("callbacks", "seed", "verbose")  # told otherwise, or one's own affair


def check_alike(model: BaseModel, arguments: FitArguments, processes: Processes) -> FitArguments:
    """Refuse to begin where processes were asked for different fits.

    Returns:
        The arguments, with the main process' seed where none was given.

    Raises:
        RankError: It tells what differs, and the value in each process.
    """
    if not processes.is_distributed:
        return arguments
    facts: dict[str, Any] = {
        each.name: repr(getattr(arguments, each.name))
        for each in fields(arguments)
        if each.name not in _OWN
    }
    facts["seed"] = arguments.seed if arguments.seeded else None
    facts["callbacks"] = [type(callback).__name__ for callback in arguments.callbacks]
    facts |= {
        f"net.{plain_name(name)}": _form(value) for name, value in model.net.named_parameters()
    }
    facts["weights of the net"] = sum(1 for _ in model.net.parameters())
    facts["optimizer"] = type(model.optimizer).__name__
    facts["loss"] = repr(model.objective.name)
    facts["epochs behind"] = model.progress.epochs
    processes.require_equal(facts)
    model.run_id = processes.broadcast(model.run_id)
    return replace(arguments, seed=processes.broadcast(arguments.seed))


def share_results(model: BaseModel, processes: Processes) -> None:
    """Give all processes the main one's history, whose clock counts, and its weights."""
    if not processes.is_distributed:
        return
    history = processes.broadcast(model.history.state_dict())
    if not processes.is_main:
        model.history.load_state_dict(history)
    processes.broadcast_module(model.net)
    processes.broadcast_module(model.objective.module)


def _form(value: Any) -> Any:
    return "lazy" if is_lazy(value) else (tuple(value.shape), value.dtype)
