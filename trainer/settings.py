"""What a fit was asked for and where it runs, by name, as a report writes it."""

from __future__ import annotations

import inspect
import platform
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fitorch.metrics.base import flat

from .fingerprint import machine

if TYPE_CHECKING:
    from .run import Run

_LONGEST = 600  # characters of a setting
_HOW = ("foreach", "fused", "capturable", "differentiable", "maximize")  # speed, mostly
_ALWAYS = ("python", "fitorch", "torch", "accelerate", "numpy")
# Arguments of `fit` that are told where they are not what they are by default.
_TOLD = {
    "patience": None,
    "max_time": None,
    "validation_split": 0.0,
    "validation_freq": 1,
    "validation_steps": None,
    "steps_per_epoch": None,
    "gradient_accumulation_steps": 1,
    "clip_grad_norm": None,
    "clip_grad_value": None,
    "class_weight": None,
    "train_metrics": True,
    "save_every_n_steps": None,
    "save_every_minutes": None,
}


def settings_of(run: Run) -> dict[str, str]:
    """Return what a fit that is about to begin was asked for."""
    model, arguments, update = run.model, run.arguments, run.state.update
    history, trained = model.history, _trained(run)
    better = "lower" if history.mode == "min" else "higher"
    scheduler = update.scheduler
    settings = {
        "net": f"{type(run.net).__name__}, {trained}",
        "loss": written(model.objective.module),
        "metrics": ", ".join(_metrics(run))[:_LONGEST] or "none",
        "optimizer": optimizer_of(update.optimizer),
        "training data": _data(run),
        "epochs": f"up to epoch {run.last_epoch}",
        "monitor": f"{run.monitor}, the {better} the better",
        "seed": str(arguments.seed),
    }
    if scheduler is not None:
        settings["schedule"] = f"{type(scheduler).__name__}, with every {update.scheduler_step}"
    for name, default in _TOLD.items():
        value = getattr(arguments, name)
        if value != default:
            settings[name] = written(value)
    for name, wanted in (
        ("jit_compile", model.compilation is not None),
        ("channels_last", model.channels_last),
    ):
        settings |= {name: "yes"} if wanted else {}
    names = [type(callback).__name__ for callback in arguments.callbacks]
    settings |= {"callbacks": ", ".join(names)[:_LONGEST]} if names else {}
    return settings


def metrics_of(run: Run) -> dict[str, str]:
    """Return the metrics with what those given by name turned out to measure."""
    tasks = run.model.metric_tasks
    told = [f"{name} ({tasks[name]})" if name in tasks else name for name in _metrics(run)]
    return {"metrics": ", ".join(told)[:_LONGEST] or "none"}


def environment_of(run: Run) -> dict[str, str]:
    """Return where a fit runs, and what its bits depend on."""
    facts, placement = machine(run), run.model.placement
    environment = {name: str(facts[name]) for name in _ALWAYS}
    environment |= {
        "platform": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "device": str(placement),
        "processes": str(placement.accelerator.num_processes),
        "threads": str(facts["threads"]),
        "deterministic": "yes" if facts["deterministic"] else "no",
    }
    if facts["matmul precision"] != "highest":
        environment["matmul precision"] = str(facts["matmul precision"])
    return environment


def optimizer_of(optimizer: Optimizer) -> str:
    """Write an optimizer: its learning rates, and what is not as its class has it.

    Example:
        >>> import torch
        >>> optimizer_of(torch.optim.SGD([torch.zeros(1)], 0.1, momentum=0.9, fused=True))
        'SGD(lr=0.1, momentum=0.9)'
    """
    parameters = inspect.signature(type(optimizer)).parameters
    groups = optimizer.param_groups
    told = []
    for name in dict.fromkeys(["lr", *parameters]):
        values = [_plain(group[name]) for group in groups if name in group]
        plain = all(_is_plain(value) for value in values)
        if not values or not plain or name in _HOW:
            continue
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        apart = list(dict.fromkeys(values))
        if name == "lr" or apart != [default]:
            told.append(f"{name}={apart[0]!r}" if len(apart) == 1 else f"{name}={values!r}")
    return f"{type(optimizer).__name__}({', '.join(told)})"[:_LONGEST]


def written(value: Any) -> str:
    """Write a value on one line, whatever its class makes of that."""
    try:
        return " ".join(repr(value).split())[:_LONGEST]
    except Exception:  # somebody's own class
        return type(value).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, list):  # what was a tuple before it was in a checkpoint
        return tuple(value)
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def sized(net: nn.Module) -> list[Any]:
    """Return the parameters of a net, without lazy ones that have no size yet."""
    parameters: list[Any] = [*net.parameters()]
    return [p for p in parameters if not is_lazy(p)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)


def _metrics(run: Run) -> list[str]:
    return [name for name, _, _ in flat(run.model.metrics_dict)]


def _trained(run: Run) -> str:
    parameters = sized(run.net)
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{total:,} parameters"
    return text if trained == total else f"{text}, {trained:,} of them trained"


def _data(run: Run) -> str:
    """Write how much there is to train on, as far as it is known."""
    source, size = run.feed.source, run.model.history.params.get("batch_size")
    samples = "" if source.samples is None else f"{source.samples:,} samples"
    batches = "" if run.feed.steps is None else f"{run.feed.steps:,} batches"
    return " in ".join(filter(None, (samples, batches))) + (f" of {size}" if size else "")
